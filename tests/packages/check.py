#!/usr/bin/env python3
"""check.py DEB…: what a package must have, whatever machine it is for; of several, that they are the same but for that.

Glibc: JetPack 6 and Ubuntu 22.04 have 2.35, so nothing newer may be asked for; objdump is asked. SBOM: valid by
CycloneDX's schema, equal to the lock file, to soup.md, and (for this machine) to what cargo says it compiled.
"""

import json
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import tomllib

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = pathlib.Path(__file__).resolve().parents[2]
NEWEST_GLIBC = (2, 35)
DOC = "usr/share/doc/sam2d"
MUST_HAVE = [
    "usr/bin/sam2d", "usr/lib/systemd/system/sam2d.service", "usr/lib/systemd/system/sam2d.socket", "etc/sam2d/sam2d.toml",
    "usr/share/man/man1/sam2d.1.gz", "usr/share/man/man1/sam2d-segment.1.gz", "usr/share/bash-completion/completions/sam2d",
    "usr/share/zsh/vendor-completions/_sam2d", "usr/share/fish/vendor_completions.d/sam2d.fish", "usr/share/sam2d/offline-install",
    f"{DOC}/changelog.gz", f"{DOC}/copyright", f"{DOC}/sbom.cdx.json", f"{DOC}/soup.md", f"{DOC}/PROVENANCE-sam2-nano.md",
]


class Wrong(AssertionError):
    """What does not hold."""


def expect(truth, what):
    if not truth:
        raise Wrong(what)


def output(*command):
    return subprocess.run([str(word) for word in command], cwd=ROOT, check=True, capture_output=True, text=True).stdout


class Deb:
    """A package, unpacked."""

    def __init__(self, path, folder):
        self.tree = folder / pathlib.Path(path).name
        subprocess.run(["dpkg-deb", "-x", path, self.tree], check=True)
        self.architecture = output("dpkg-deb", "-f", path, "Architecture").strip()
        self.depends = output("dpkg-deb", "-f", path, "Depends")
        self.files = sorted(str(file.relative_to(self.tree)) for file in self.tree.rglob("*") if not file.is_dir())

    @property
    def sbom(self):
        return json.loads(self.text(f"{DOC}/sbom.cdx.json"))

    def text(self, name):
        expect(name in self.files, f"{name} is missing")
        return (self.tree / name).read_text()


def everything_is_in_it(deb):
    missing = [name for name in MUST_HAVE if name not in deb.files]
    expect(not missing, f"missing: {missing}")
    return f"{len(deb.files)} files"


def no_glibc_newer_than_jetpacks(deb):
    asked = re.findall(r"\(?GLIBC_([0-9.]+)\)? +(\w+)", output("objdump", "-T", deb.tree / "usr/bin/sam2d"))
    expect(len(asked) > 50, "objdump says next to nothing")
    version = lambda text: tuple(int(part) for part in text.split("."))
    newest = max(version(number) for number, _ in asked)
    culprits = sorted({name for number, name in asked if version(number) == newest})
    expect(newest <= NEWEST_GLIBC, f"glibc {newest}, for {culprits}: build on Debian 12, Ubuntu 22.04 or older")
    text = ".".join(map(str, newest))
    expect(f"libc6 (>= {text})" in deb.depends, f"it needs {text}, and the package says {deb.depends}")
    return f"objdump -T: GLIBC_{text} for {', '.join(culprits)}; {len(asked)} symbols"


def sbom_is_valid(deb):
    fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(deb.text(f"{DOC}/sbom.cdx.json"))
    expect(fault is None, f"{fault}")
    known = {component["bom-ref"] for component in [*deb.sbom["components"], deb.sbom["metadata"]["component"]]}
    edges = {ref for edge in deb.sbom["dependencies"] for ref in [edge["ref"], *edge["dependsOn"]]}
    expect(edges <= known, f"dependencies without a component: {edges - known}")
    return f"CycloneDX 1.5: valid; {len(known)} components, {sum(len(e['dependsOn']) for e in deb.sbom['dependencies'])} edges"


def libraries(deb):
    """Name, version and sum of every crate that it lists."""
    return {(c["name"], c["version"], c["hashes"][0]["content"]) for c in deb.sbom["components"] if c["type"] == "library"}


def sbom_and_soup_are_the_lock_file(deb):
    locked = {(p["name"], p["version"], p.get("checksum")) for p in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    listed = libraries(deb)
    weak = [c["name"] for c in deb.sbom["components"] for h in c.get("hashes", []) if h["alg"] != "SHA-256"]
    expect(not weak, f"sums that aren't SHA-256: {weak}")
    expect(listed and listed <= locked, f"not in the lock file: {listed - locked}")
    rows = [line.split("|") for line in deb.text(f"{DOC}/soup.md").splitlines() if line.startswith("| ")][1:]
    soup = {(row[1].strip(), row[2].strip()) for row in rows}
    expect(soup == {crate[:2] for crate in listed}, f"soup.md and the SBOM differ: {soup ^ {c[:2] for c in listed}}")
    expect(all(row[3].strip() for row in rows), "a crate without a licence")
    models = [c for c in deb.sbom["components"] if c["type"] == "machine-learning-model"]
    expect([file["name"] for model in models for file in model["components"]], "the embedded model is not listed")
    return f"{len(listed)} of the lock file's {len(locked)} packages, the same in soup.md"


def sbom_is_what_was_compiled(deb):
    """Cargo names every crate that went into the program, also when nothing is left to do."""
    text = output("cargo", "build", "--release", "--locked", "--bin", "sam2d", "--message-format", "json")
    artifacts = [m for m in map(json.loads, text.splitlines()) if m["reason"] == "compiler-artifact"]
    compiled = {m["package_id"].rpartition("#")[2].rpartition("/")[2] for m in artifacts if "sam2d" not in m["target"]["name"]}
    named = lambda package: tuple(package.split("@")) if "@" in package else package
    compiled = {named(package) for package in compiled}
    listed = {crate[:2] for crate in libraries(deb)}
    expect(len(compiled) > 100, f"cargo names {len(compiled)} crates only")
    expect(compiled <= listed, f"compiled, but not in the SBOM: {compiled - listed}")
    # What only the other machine's program has is listed in both packages.
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
    tree = output("cargo", "tree", "--locked", "-e", "normal,build", "--target", f"{other}-unknown-linux-gnu", "--prefix", "none", "--format", "{p}")
    others = {(line.split()[0], line.split()[1].removeprefix("v")) for line in tree.splitlines()}
    expect(listed - compiled <= others, f"in the SBOM, but never compiled: {listed - compiled - others}")
    return f"cargo compiled {len(compiled)} crates, all listed; {len(listed - compiled)} only for {other}"


def main():
    failed = 0
    with tempfile.TemporaryDirectory(prefix="sam2d-packages-") as folder:
        debs = [Deb(path, pathlib.Path(folder)) for path in sys.argv[1:]]
        checks = [everything_is_in_it, no_glibc_newer_than_jetpacks, sbom_is_valid, sbom_and_soup_are_the_lock_file]
        tasks = [(check, deb) for deb in debs for check in checks]
        tasks += [(sbom_is_what_was_compiled, deb) for deb in debs if deb.architecture == "amd64"]
        for check, deb in tasks:
            title = f"{deb.architecture}: {check.__name__.replace('_', ' ')}"
            try:
                print(f"ok     {title}\n       | {check(deb)}", flush=True)
            except (Wrong, KeyError) as error:
                failed += 1
                print(f"FAILED {title}\n       | {error}", flush=True)
        if len(debs) == 2 and debs[0].files != debs[1].files:
            failed += 1
            print(f"FAILED the packages differ in {set(debs[0].files) ^ set(debs[1].files)}")
    print(f"{len(tasks)} checks, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
