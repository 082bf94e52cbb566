#!/usr/bin/env python3
"""packaging/sbom.py OUT-FOLDER: sbom.cdx.json (CycloneDX 1.5) and soup.md from the lock file.

What is linked into the program for the two targets that are shipped, or builds what is, by `cargo tree`:
neither tests' nor other systems' crates; and the model that is compiled in. SOUP is IEC 62304's word for
software of unknown provenance. The same lock file gives the same bytes: no times, no random numbers.
"""

import json
import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
ENGINE = "engines/sam2-nano/engine.toml"
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]


def linked():
    """Crates in the program, as (name, version, licence, repository), each with those that it uses."""
    edges = {}
    for target in TARGETS:
        command = ["cargo", "tree", "--locked", "--edges", "normal,build", "--target", target]
        command += ["--prefix", "depth", "--format", "|{p}|{l}|{r}|"]
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        above = []
        for line in text.splitlines():
            depth, package, licence, repository, _ = line.split("|")
            name, version = package.split()[:2]
            crate = (name, version.removeprefix("v"), licence, repository)
            above[int(depth):] = [crate]
            edges.setdefault(crate, set())
            if len(above) > 1:
                edges[above[-2]].add(crate)
    return edges


def sha256(content):
    return {"hashes": [{"alg": "SHA-256", "content": content}]} if content else {}


def model():
    """The engine that is compiled in."""
    manifest = tomllib.loads((ROOT / ENGINE).read_text())
    files = [{"type": "file", "name": file["path"], **sha256(file["sha256"])} for file in manifest["files"].values() if "sha256" in file]
    return {
        "type": "machine-learning-model", "bom-ref": f"engine:{manifest['name']}@{manifest['version']}",
        "name": manifest["name"], "version": manifest["version"], "description": manifest["notice"],
        "licenses": [{"expression": manifest["licence"]}], "components": files,
    }


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    crates = linked()
    sums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    purl = lambda crate: f"pkg:cargo/{crate[0]}@{crate[1]}"
    component = lambda crate, kind: {
        "type": kind, "bom-ref": purl(crate), "name": crate[0], "version": crate[1], "purl": purl(crate),
        "licenses": [{"expression": crate[2].replace("/", " OR ")}], **sha256(sums[crate[:2]]),
    }
    ours = next(crate for crate in crates if crate[0] == "sam2d")
    others = sorted(crate for crate in crates if crate is not ours)
    bom = {
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": component(ours, "application")},
        "components": [*(component(crate, "library") for crate in others), model()],
        "dependencies": [
            {"ref": purl(crate), "dependsOn": sorted(purl(use) for use in uses)} for crate, uses in sorted(crates.items())
        ],
    }
    (out / "sbom.cdx.json").write_text(json.dumps(bom, indent=1) + "\n")
    named = {line.split("|")[1].strip() for line in (ROOT / "docs/DECISIONS.md").read_text().splitlines() if line.startswith("| ")}
    chosen = {name.strip() for cell in named for name in cell.replace("(", ",").replace(")", ",").split(",")}
    lines = [f"# Software of unknown provenance in sam2d {ours[1]}", "",
             "Every crate that is linked in, or builds what is, from the lock file. Why the chosen ones were chosen is in DECISIONS.md;",
             "the others come with them. Not for diagnostic use.", "", "| crate | version | licence | source | chosen |", "|---|---|---|---|---|"]
    for crate in others:
        lines.append(f"| {' | '.join(crate)} | {'yes' if crate[0] in chosen else ''} |")
    (out / "soup.md").write_text("\n".join(lines) + "\n")
    print(f"{len(others)} crates: {out / 'sbom.cdx.json'}, {out / 'soup.md'}")


if __name__ == "__main__":
    main()
