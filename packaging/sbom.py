#!/usr/bin/env python3
"""packaging/sbom.py OUT-FOLDER: sbom.cdx.json (CycloneDX 1.5) and soup.md from the lock file.

What is linked into the program for the two targets that are shipped, by `cargo metadata`: neither tests'
nor other systems' crates. SOUP is IEC 62304's word for software of unknown provenance.
"""

import json
import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]


def linked():
    """Crates in the program, by id, with those that they use."""
    crates, edges = {}, {}
    for target in TARGETS:
        command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
        data = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
        packages = {package["id"]: package for package in data["packages"]}
        nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
        waiting = [data["resolve"]["root"]]
        while waiting:
            this = waiting.pop()
            uses = [d["pkg"] for d in nodes[this]["deps"] if any(k["kind"] != "dev" for k in d["dep_kinds"])]
            fresh = this not in crates
            crates[this] = packages[this]
            edges.setdefault(this, set()).update(uses)
            waiting += [use for use in uses if use not in crates] if fresh else []
    return crates, edges


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    crates, edges = linked()
    sums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    purl = lambda crate: f"pkg:cargo/{crate['name']}@{crate['version']}"
    component = lambda crate, kind: {
        "type": kind, "bom-ref": purl(crate), "name": crate["name"], "version": crate["version"], "purl": purl(crate),
        **({"licenses": [{"expression": crate["license"]}]} if crate.get("license") else {}),
        **({"hashes": [{"alg": "SHA-256", "content": found}]} if (found := sums.get((crate["name"], crate["version"]))) else {}),
    }
    ours = next(c for c in crates.values() if c["name"] == "sam2d")
    others = sorted((c for c in crates.values() if c is not ours), key=lambda c: (c["name"], c["version"]))
    bom = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": component(ours, "application")},
        "components": [component(crate, "library") for crate in others],
        "dependencies": [
            {"ref": purl(crates[this]), "dependsOn": sorted(purl(crates[use]) for use in uses)}
            for this, uses in sorted(edges.items())
        ],
    }
    (out / "sbom.cdx.json").write_text(json.dumps(bom, indent=1) + "\n")
    named = {line.split("|")[1].strip() for line in (ROOT / "docs/DECISIONS.md").read_text().splitlines() if line.startswith("| ")}
    chosen = {name.strip() for cell in named for name in cell.replace("(", ",").replace(")", ",").split(",")}
    lines = [f"# Software of unknown provenance in sam2d {ours['version']}", "",
             "Every crate that is linked in, from the lock file. Why the chosen ones were chosen is in DECISIONS.md; the others come",
             "with them. Not for diagnostic use.", "", "| crate | version | licence | source | chosen |", "|---|---|---|---|---|"]
    for crate in others:
        lines.append(f"| {crate['name']} | {crate['version']} | {crate.get('license') or '?'} | {crate.get('repository') or '?'} | {'yes' if crate['name'] in chosen else ''} |")
    (out / "soup.md").write_text("\n".join(lines) + "\n")
    print(f"{len(others)} crates: {out / 'sbom.cdx.json'}, {out / 'soup.md'}")


if __name__ == "__main__":
    main()
