"""An air-gapped site's way: a signed bundle, the next one over it, and back. Run by run.py, in the box."""

import pathlib
import shutil
import subprocess

from box import Failed

ROOT = pathlib.Path(__file__).resolve().parents[2]
INSTALLED = "/usr/share/sam2d/offline-install"
CONFIG = "/etc/sam2d/sam2d.toml"
OURS = "[segment]\nlow_confidence = 0.77\n"


def expect(truth, what):
    if not truth:
        raise Failed(what)


def host(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **more)
    expect(done.returncode == 0, f"{command}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def next_version(deb, folder):
    """The same package as a later version, whose shipped configuration is another."""
    tree = folder / "next"
    host("dpkg-deb", "-R", deb, tree)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 9"))
    with open(tree / CONFIG.lstrip("/"), "a") as config:
        config.write("\n# A line that only the next version has.\n")
    made = folder / pathlib.Path(deb).name.replace("sam2d_", "sam2d_9")
    host("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, made)
    shutil.rmtree(tree)
    return made


def keys(folder, name):
    secret, public = folder / f"{name}.key", folder / f"{name}.pub"
    host("openssl", "genpkey", "-algorithm", "ed25519", "-out", secret)
    host("openssl", "pkey", "-in", secret, "-pubout", "-out", public)
    return secret, public


def a_signed_bundle_installs_without_network_and_goes_back(service, say):
    box = service.box
    work = box.work / "bundle"
    work.mkdir()
    deb = box.root / "root" / box.deb
    (secret, public), (_, stranger) = keys(work, "site"), keys(work, "stranger")
    engine = work / "site-engine"
    shutil.copytree(ROOT / "engines/sam2-nano", engine)
    for name, package, engines in (("first", deb, [engine]), ("second", next_version(deb, work), [])):
        tar = host(ROOT / "packaging/bundle.sh", package, work, secret, *engines)
        box.copy(tar, f"/root/{name}.tar")
        box.run("bash", "-c", f"rm -rf /root/{name} && mkdir /root/{name} && tar -xf /root/{name}.tar -C /root/{name} --strip-components=1")
    for key in (public, stranger):
        box.copy(key, f"/root/{key.name}")

    version = lambda: box.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "sam2d", check=False).strip()
    ask = lambda *words: box.run("bash", "-c", f"sh {' '.join(words)} 2>&1; echo exit $?", timeout=300)
    expect(box.run("cat", "/proc/net/route").count("\n") <= 1, "the box has a way out: the test proves nothing")
    box.run("bash", "-c", "DEBIAN_FRONTEND=noninteractive apt-get purge -y sam2d 2>&1", timeout=120)

    def refused(words, why):
        said = ask(*words)
        expect(why in said and "exit 1" in said, f"{words}: {said}")
        expect(not version().startswith("installed"), f"refused, but installed: {version()}")
        say("refused: " + said.strip().splitlines()[-2])

    refused(["/root/first/install", "/root/stranger.pub"], "the signature is not of this key")
    for harm, why in (
        (f"printf x >> bad/{box.deb}", "a file was changed"),
        ("printf x >> bad/engines/site-engine/encoder.onnx", "a file was changed"),
        ("sed -i '1s/^./x/' bad/SHA256SUMS", "the signature is not of this key"),
        ("head -1 bad/SHA256SUMS > bad/half; mv bad/half bad/SHA256SUMS", "the signature is not of this key"),
        ("rm bad/SHA256SUMS.sig", "the signature is not of this key"),
        ("rm bad/engines/site-engine/golden.png", "a file was changed"),
        ("mkdir bad/engines/more && touch bad/engines/more/engine.toml", "are signed"),
        ("ln -s /root/engine bad/engines/more", "links or devices"),
    ):
        box.run("bash", "-c", f"cd /root; rm -rf bad; cp -r first bad; {harm}")
        refused(["/root/bad/install", "/root/site.pub"], why)

    said = ask("/root/first/install", "/root/site.pub")
    expect("exit 0" in said, said)
    first = version()
    say(service.status_is("ready:") + f"; {first}, from a bundle, without a network")
    expect("serves: sam2-nano 2.1.0 (/var/lib/sam2d/engines/sam2-nano)" in said, said)
    service.wait_for("reload: the configuration is in force")
    expect(box.run("bash", "-c", f"cmp {INSTALLED} /root/first/install && echo same").strip() == "same", "another script is installed")
    expect("there is no version before" in ask(INSTALLED, "--rollback"), "a rollback to nothing")

    box.write(CONFIG, OURS)
    said = ask(INSTALLED, "/root/site.pub", "/root/second")
    expect("exit 0" in said and version() == first.replace("installed ", "installed 9"), f"{version()}: {said}")
    expect(box.run("cat", CONFIG) == OURS, "the upgrade lost the configuration")
    say(service.status_is("ready:") + f"; {version()}, configuration kept")

    said = ask(INSTALLED, "/root/site.pub", "/root/first")
    expect("exit 0" not in said and version().startswith("installed 9"), f"an old bundle took the place of a newer one: {said}")

    said = ask(INSTALLED, "--rollback")
    expect("exit 0" in said and version() == first, f"{version()}: {said}")
    expect(box.run("cat", CONFIG) == OURS, "the rollback lost the configuration")
    say(service.status_is("ready:") + f"; back at {version()}, configuration kept")
    expect("there is no version before" in ask(INSTALLED, "--rollback"), "a second rollback")
    code, answer = service.segment()
    expect(code == 200, f"{code} {answer}")
    box.run("bash", "-c", "rm -rf /root/first* /root/second* /root/bad /var/lib/sam2d/engines/sam2-nano")
