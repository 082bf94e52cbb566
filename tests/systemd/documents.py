"""Every command of the operator's documents, run in the box in the order in which they stand.

A command is a line of an indented block, or a `span` that starts with one of ours. What a line needs to
run without a person (a name in place of a placeholder, no question asked) is in STEPS; what can't run
here is in ELSEWHERE with its reason. A command that stands in neither runs as it is and must succeed, so
a new line in a document is tried from its first day.
"""

import re
import subprocess

from box import Failed

DOCUMENTS = ["deployment", "operations", "configuration", "troubleshooting", "upgrade"]
COMMANDS = ("sam2d ", "systemctl ", "journalctl ", "apt ", "apt-get ", "timedatectl ", "df ", "ss ", "dmesg", "nvidia-smi")
FOLDER = "/var/lib/sam2d/engines"
QUIET = "DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends -o Dpkg::Options::=--force-confold"

# What replaces a line.
STEPS = {
    "apt install ./sam2d_0.1.0_amd64.deb": f"{QUIET} install --reinstall ./{{deb}}",
    "apt install ./sam2d_NEW_amd64.deb": f"{QUIET} install ./new.deb && dpkg -s sam2d | grep -q '^Version: .*+next'",
    "apt install --allow-downgrades ./sam2d_OLD_amd64.deb":
        f"{QUIET} install --allow-downgrades ./{{deb}} && ! dpkg -s sam2d | grep -q '^Version: .*+next'",
    "cp -r ./sam2.1-large /var/lib/sam2d/engines/": f"cp -r ./sam2.1-large {FOLDER}/",
    # Without its argument it is the command's name in a sentence.
    "sam2d engine verify": "sam2d engine verify ./sam2.1-large",
    "systemctl edit sam2d.socket":
        "printf '[Socket]\\nListenStream=\\nListenStream=127.0.0.1:8642\\n' | systemctl edit --stdin sam2d.socket",
    # It follows no pager and has an end.
    "journalctl -u sam2d": "journalctl -u sam2d -n 5 --no-pager",
}

# What can't run here, and why.
ELSEWHERE = {
    "ss -ltnp sport = :8642": "the box has no iproute2",
    "timedatectl set-ntp true": "a container's clock is its host's",
    "nvidia-smi": "no card",
    "dmesg": "a container may not read the kernel's log",
    "apt remove sam2d": "a scenario of its own ends with the purge",
    "apt purge sam2d": "a scenario of its own",
}


def commands(text):
    """The commands and the configuration blocks of a document, in their order."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith("    [") and re.fullmatch(r"    \[[a-z.]+\]", line):
            block = []
            while number < len(lines) and lines[number].startswith("    "):
                block.append(lines[number][4:])
                number += 1
            yield "toml", "\n".join(block) + "\n"
            continue
        if line.startswith("    "):
            command = re.sub(r"\s+#.*$", "", line[4:]).strip()
            if command.startswith((*COMMANDS, "install ", "cp ")):
                yield "command", command
        else:
            for span in re.findall(r"`([^`]+)`", line):
                if span.startswith(COMMANDS) and "…" not in span:
                    yield "command", span
        number += 1


def prepare(service):
    """What the documents take for granted: a package to install, a newer one, an engine, an address."""
    box = service.box
    subprocess.run(
        ["nsenter", "-t", str(box.leader), "-n", "ip", "addr", "replace", "10.1.2.3/24", "dev", "lo"], check=True
    )
    box.run("bash", "-c", "cd /root && rm -rf sam2.1-large new && cp -r engine sam2.1-large"
            f" && dpkg-deb -R {box.deb} new && sed -i 's/^\\(Version: .*\\)/\\1+next/' new/DEBIAN/control"
            " && dpkg-deb --root-owner-group -Zgzip -z1 -b new new.deb && rm -r new", timeout=300)


def walk(service, root):
    """Runs them all; a line for each document."""
    prepare(service)
    told = []
    for name in DOCUMENTS:
        try:
            told.append(f"{name}: " + walked(service, name, (root / "docs" / f"{name}.md").read_text()))
        finally:
            service.box.run(
                "bash", "-c", f"rm -rf {FOLDER}/sam2.1-large /etc/systemd/system/sam2d.s*.d; systemctl daemon-reload;"
                " systemctl disable -q --now sam2d.socket; systemctl enable -q sam2d.service",
            )
        service.settle()
    return told


def walked(service, name, text):
    ran, elsewhere = 0, []
    for kind, step in commands(text):
        if kind == "toml":
            service.configure(step)
            continue
        if step in ELSEWHERE:
            elsewhere.append(f"{step} ({ELSEWHERE[step]})")
            continue
        command = STEPS.get(step, step).replace("{deb}", service.box.deb)
        done = subprocess.run(
            service.box.command("bash", "-c", f"cd /root; export PAGER=cat; {command}"), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=300, check=False,
        )
        if done.returncode and not allowed(step, done):
            raise Failed(f"docs/{name}.md: {step}: exit {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        follow(service, step)
        ran += 1
    return f"{ran} commands run" + (f"; not run: {'; '.join(elsewhere)}" if elsewhere else "")


def allowed(text, done):
    """Exit codes that say something true of this box."""
    # In the middle of a document the box may be in manual-only mode (1), and its doctor names that.
    return text.startswith(("sam2d health", "sam2d doctor")) and done.returncode == 1


def follow(service, text):
    """What a document promises after a command."""
    if text.startswith("systemctl reload sam2d && sam2d health"):
        service.status_is("ready:")
    if "gpu.conf" in text or text.startswith("systemctl daemon-reload && systemctl restart sam2d"):
        if service.show("ActiveState") not in ("active", "reloading"):
            raise Failed(f"after {text}: {service.show('ActiveState')}")
    if text.startswith("apt install"):
        service.status_is("", 30)
