"""A box: Debian with a real systemd as PID 1, in systemd-nspawn, with a network of its own.

What is installed, started, killed and purged in it never touches this machine. The base system is made
once (mmdebstrap, about a minute) and kept; every box is a copy of it.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

SUITE = "trixie"
PACKAGES = "systemd,systemd-sysv,dbus,curl,procps,ca-certificates,openssl"
ENVIRONMENT = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0", "LANG=C.UTF-8"]


class Failed(AssertionError):
    """What was expected did not come; the text says what came."""


def base(tools):
    """The base system, made where it is not there yet."""
    folder = pathlib.Path(tools) / f"box-{SUITE}"
    if (folder / "etc/debian_version").exists():
        return folder
    half = folder.with_suffix(".half")
    shutil.rmtree(half, ignore_errors=True)
    made = subprocess.run(
        ["mmdebstrap", "-q", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(half)],
        capture_output=True, text=True, check=False,
    )
    if made.returncode:
        raise Failed("mmdebstrap: " + made.stderr[-2000:])
    half.rename(folder)
    return folder


class Box:
    """One box. Make it, boot it, work in it, end it."""

    def __init__(self, tools):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="sam2d-box."))
        self.root = self.work / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", str(base(tools)), str(self.root)], check=True)
        self.nspawn = self.leader = None

    def boot(self, *arguments):
        """Boots until systemd says that it is up."""
        console = open(self.work / "console", "wb")
        self.nspawn = subprocess.Popen(
            ["systemd-nspawn", "-q", "-D", str(self.root), "--boot", "--register=no", "--keep-unit",
             "--private-network", "--link-journal=no", "--console=pipe", "--machine=sam2d-test", *arguments],
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.nspawn.poll() is not None:
                break
            self.leader = self._find_leader()
            if self.leader:
                state = self.run("systemctl", "is-system-running", check=False, timeout=20).strip()
                if state in ("running", "degraded"):
                    return self
            time.sleep(0.2)
        text = (self.work / "console").read_text(errors="replace")[-2000:]
        raise Failed("the box did not boot:\n" + text)

    def _find_leader(self):
        """systemd below nspawn."""
        below = [self.nspawn.pid]
        while below:
            pid = below.pop()
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    children = [int(child) for child in task.read_text().split()]
                    for child in children:
                        if pathlib.Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                            return child
                    below += children
                except OSError:
                    continue
        return None

    def command(self, *arguments):
        return ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-p", "-n", "-C", *ENVIRONMENT, *arguments]

    def run(self, *arguments, check=True, timeout=120, stdin=None):
        """Runs in the box; its standard output, and both when it fails."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, errors="replace", timeout=timeout,
            input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, check=False,
        )
        if check and done.returncode:
            raise Failed(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout if check or done.stdout else done.stdout + done.stderr

    def start(self, script):
        """A shell script in the background."""
        return subprocess.Popen(
            self.command("bash", "-c", script), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )

    def write(self, path, text, mode=0o644):
        """A file in the box, through the box: what is mounted in there counts."""
        self.run("bash", "-c", f"mkdir -p $(dirname {path}) && cat > {path} && chmod {mode:o} {path}", stdin=text)

    def copy(self, source, path, mode=0o644):
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(mode)

    def pull_the_plug(self):
        """Kills everything at once, as a power cut does."""
        os.killpg(self.nspawn.pid, signal.SIGKILL)
        try:
            os.kill(self.leader, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.nspawn.wait(timeout=30)
        until = time.monotonic() + 20
        while pathlib.Path(f"/proc/{self.leader}").exists() and time.monotonic() < until:
            time.sleep(0.1)
        self.leader = None

    def shut_down(self):
        """As an operator does."""
        if self.leader:
            try:
                os.kill(self.leader, signal.SIGRTMIN + 4)
                self.nspawn.wait(timeout=90)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                self.pull_the_plug()
        self.leader = None

    def remove(self):
        if self.leader:
            self.pull_the_plug()
        shutil.rmtree(self.work, ignore_errors=True)
