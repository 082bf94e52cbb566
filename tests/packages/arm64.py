#!/usr/bin/env python3
"""arm64.py ARM64-DEB AMD64-DEB KERNEL-FOLDER: the arm64 program at work, on an ordinary machine.

In qemu's `virt` machine with Debian's own arm64 kernel, so that seccomp, memfds, seals and child processes are the
real ones. qemu-user starts no child of the program and has no seccomp: what it says there is held here too.
The machine boots into a RAM disk with the program, the cross compiler's C library, the sample and a shell.
"""

import base64
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARIES = pathlib.Path("/usr/aarch64-linux-gnu/lib")
NEEDED = ["ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1"]
SAMPLE = "usr/share/sam2d/samples/phantom-axial.dcm"
CLICK = ["--point", "160,167", "--type", "auto"]
URL = "http://127.0.0.1:8642/api/segmentation/sam2"

# What is run in it, one after the other, each with its exit status.
STEPS = {
    "version": "sam2d --version",
    "machine": "uname -srm",
    "engine": "sam2d engine verify",
    "segment": f"sam2d segment /{SAMPLE} {' '.join(CLICK)} --out /tmp/mask.png && base64 /tmp/mask.png",
    "doctor": "sam2d doctor",
    "daemon": "sam2d serve >/tmp/log 2>&1 & for i in $(seq 300); do sam2d health && break; sleep 1; done; cat /tmp/log",
    "children": "for f in $(grep -l decode-chil[d] /proc/[0-9]*/cmdline); do grep Seccomp: ${f%cmdline}status; done",
    "request": f"wget -q -O - --header Content-Type:application/json --post-file /request.json {URL} && echo",
}
# An emulated processor takes a minute for what a real one does in 30 ms.
SLOW = """[http]
request_timeout_s = 900
drain_timeout_s = 905
[engine]
hang_s = 900
[decoder]
deadline_ms = 300000
"""
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/root LD_LIBRARY_PATH=/lib RUST_BACKTRACE=0
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
mkdir -p /dev/shm /run /root /var/tmp; ip link set lo up
date -s @{now} >/dev/null
step() {{ echo "=== $1"; ( eval "$2" ) 2>&1; echo "=== $1: exit $?"; }}
{steps}
poweroff -f
"""


class Wrong(AssertionError):
    """What does not hold."""


def expect(truth, what):
    if not truth:
        raise Wrong(what)


def unpacked(deb, folder):
    subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
    return folder


def ram_disk(tree, kernel):
    """The machine's root file system, packed."""
    (tree / "bin").mkdir()
    shutil.copy(kernel / "bin/busybox", tree / "bin/busybox")
    (tree / "lib").mkdir(exist_ok=True)
    for name in NEEDED:
        shutil.copy(LIBRARIES / name, tree / "lib" / name)
    for folder in ("proc", "sys", "dev", "tmp"):
        (tree / folder).mkdir()
    lines = "\n".join(f"step {name} '{command}'" for name, command in STEPS.items())
    (tree / "etc/sam2d/sam2d.toml").write_text(SLOW)
    picture = base64.b64encode((tree / SAMPLE).read_bytes()).decode()
    request = {"image_data": picture, "image_type": "auto", "click_points": [{"x": 160, "y": 167, "label": 1}]}
    (tree / "request.json").write_text(json.dumps(request))
    (tree / "init").write_text(INIT.format(now=int(time.time()), steps=lines))
    (tree / "init").chmod(0o755)
    packed = tree.with_suffix(".cpio")
    with open(packed, "wb") as out:
        files = subprocess.run(["find", ".", "-print0"], cwd=tree, check=True, capture_output=True).stdout
        subprocess.run(["cpio", "-o", "-0", "-H", "newc", "-R", "0:0", "--quiet"], cwd=tree, input=files, stdout=out, check=True)
    return packed


def run_machine(kernel, disk, seconds):
    """What it wrote on its serial line, by step: (text, exit status)."""
    image = next((kernel / "boot").glob("vmlinuz-*"))
    # pauth-impdef: real pointer authentication costs an emulator most of its time.
    command = ["qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on", "-smp", "2", "-m", "4096", "-nodefaults",
               "-no-reboot", "-display", "none", "-serial", "stdio", "-kernel", image, "-initrd", disk, "-append", "console=ttyAMA0 quiet panic=-1"]
    text = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False).stdout
    text = text.decode(errors="replace").replace("\r", "")
    found = {m[1]: (m[2], int(m[3])) for m in re.finditer(r"^=== (\w+)\n(.*?)^=== \1: exit (\d+)$", text, re.M | re.S)}
    expect(found, f"the machine did not come up:\n{text[-2000:]}")
    return found


def run_user(binary, *words, **more):
    """Under qemu-user: the program's instructions translated, its calls answered by this kernel."""
    libraries = [] if pathlib.Path("/lib/ld-linux-aarch64.so.1").exists() else ["-L", "/usr/aarch64-linux-gnu"]
    return subprocess.run(["qemu-aarch64", *libraries, str(binary), *words], capture_output=True, text=True, check=False, **more)


def main():
    arm64, amd64, kernel = (pathlib.Path(path).resolve() for path in sys.argv[1:4])
    failed = []

    def check(title, function):
        began = time.monotonic()
        try:
            said, word = function(), "ok"
        except (Wrong, KeyError, subprocess.TimeoutExpired) as error:
            said, word = f"{type(error).__name__}: {error}", "FAILED"
            failed.append(title)
        print(f"{word:6} {title} ({time.monotonic() - began:.1f} s)", flush=True)
        for line in str(said).strip().splitlines():
            print(f"       | {line}", flush=True)

    with tempfile.TemporaryDirectory(prefix="sam2d-arm64-") as folder:
        folder = pathlib.Path(folder)
        here, there = unpacked(amd64, folder / "amd64"), unpacked(arm64, folder / "arm64")
        ours = folder / "ours.png"
        subprocess.run([here / "usr/bin/sam2d", "segment", here / SAMPLE, *CLICK, "--out", ours], check=True, capture_output=True)
        seen = {}

        def under_qemu_user():
            version = run_user(there / "usr/bin/sam2d", "--version")
            expect(version.returncode == 0 and version.stdout.startswith("sam2d "), f"{version}")
            engine = run_user(there / "usr/bin/sam2d", "engine", "verify")
            expect(engine.returncode == 0, f"{engine}")
            child = run_user(there / "usr/bin/sam2d", "segment", str(here / SAMPLE), *CLICK, "--out", str(folder / "user.png"))
            expect(child.returncode != 0 and not (folder / "user.png").exists(), f"a decoder child without seccomp: {child}")
            return f"{version.stdout}{engine.stdout}without seccomp it refuses to segment: {child.stderr}"

        def it_starts():
            seen.update(run_machine(kernel, ram_disk(there, kernel), 900))
            text, code = seen["version"]
            expect(code == 0 and text.startswith("sam2d "), text)
            return text + seen["machine"][0]

        def the_engine_is_right():
            text, code = seen["engine"]
            expect(code == 0, text)
            return text

        def the_mask_is_amd64s():
            text, code = seen["segment"]
            expect(code == 0, text)
            packed = re.search(r"^(iVBOR[\w+/=\n]+)", text, re.M)
            expect(packed, f"no mask: {text[-500:]}")
            theirs = base64.b64decode(packed[1])
            expect(theirs == ours.read_bytes(), f"another mask: {len(theirs)} bytes, {len(ours.read_bytes())} on amd64")
            return f"{text[:packed.start()].strip()}\n{len(theirs)} bytes of PNG, the same as amd64's"

        def the_decoder_child_is_locked_in():
            text, _ = seen["doctor"]
            expect("a child in its sandbox decoded a picture" in text, text)
            modes = re.findall(r"^Seccomp:\s*(\d)$", seen["children"][0], re.M)
            expect(modes and set(modes) == {"2"}, f"the daemon's children are not filtered: {seen['children']}")
            said = next(line.strip() for line in text.splitlines() if "a child in its sandbox" in line)
            return f"{said}\nthe daemon's children: Seccomp: {', '.join(modes)}"

        def the_daemon_answers():
            text, _ = seen["daemon"]
            expect("OK: ready" in text and "decoder.sandbox" not in text, text)
            answer, code = seen["request"]
            expect(code == 0, answer)
            answer = json.loads(answer)
            mask = base64.b64decode(answer["mask_data"])
            expect(mask == ours.read_bytes(), f"another mask than amd64's: {answer['bounding_box']}")
            return f"{next(line for line in text.splitlines() if 'OK: ready' in line)}\nover HTTP: {answer['bounding_box']}, the mask the same as amd64's"

        check("under qemu-user it works up to the sandbox", under_qemu_user)
        check("it starts on an arm64 kernel", it_starts)
        check("the engine's golden image comes out right", the_engine_is_right)
        check("the phantom's mask is amd64's", the_mask_is_amd64s)
        check("the decoder child is locked in", the_decoder_child_is_locked_in)
        check("the daemon answers a request", the_daemon_answers)
    print(f"{len(failed)} failed" + (": " + "; ".join(failed) if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
