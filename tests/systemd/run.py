#!/usr/bin/env python3
"""The systemd stage of ./test: the Debian package in a box with a real systemd as PID 1.

usage: run.py DEB FAULTY-BINARY TOOLS-FOLDER [NAME…]   (NAME: only scenarios whose name holds one of these)

Every scenario says what it saw, with the lines of the box's journal. FAULTY-BINARY is the same program
with the cargo feature `faults`; only the scenarios of broken engines use it, and one proves that the
packaged program has none of it.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

import documents
import prometheus
from box import Box, Failed, base
from offline import a_signed_bundle_installs_without_network_and_goes_back

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = "http://127.0.0.1:8642"
HEALTH = f"{HERE}/api/segmentation/sam2/health"
SEGMENT = f"{HERE}/api/segmentation/sam2"
PHANTOM = "/usr/share/sam2d/samples/phantom-axial.dcm"
DROPIN = "/etc/systemd/system/sam2d.service.d/test.conf"
ORDERS = "/run/sam2d/orders"
CANARY = "CANARY^Patient^Zebra"

scenarios = []


def scenario(function):
    scenarios.append(function)
    return function


def needs_faulty(function):
    """Only with a program that can be told to fail."""
    function.faulty = True
    return scenario(function)


def expect(truth, what):
    if not truth:
        raise Failed(what)


class Service:
    """sam2d in a box, as an operator sees it."""

    def __init__(self, box):
        self.box = box

    def journal(self, since=None, fields=False):
        cursor = ["--after-cursor", since] if since else []
        output = "json" if fields else "cat"
        text = self.box.run("journalctl", "-u", "sam2d.service", "-u", "init.scope", "-o", output, "--no-pager", *cursor, check=False)
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")] if fields else text

    def now(self):
        """A cursor: what comes after it is new."""
        text = self.box.run("journalctl", "-n", "0", "--show-cursor", "--no-pager", check=False)
        found = re.search(r"-- cursor: (\S+)", text)
        return found and found.group(1)

    def wait_for(self, words, since=None, seconds=30):
        """The journal's line with these words."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for line in self.journal(since).splitlines():
                if words in line:
                    return line
            time.sleep(0.2)
        raise Failed(f"no line with {words!r} within {seconds} s; the journal:\n{self.journal(since)[-3000:]}")

    def show(self, name):
        return self.box.run("systemctl", "show", "-P", name, "sam2d.service").strip()

    def status_is(self, words, seconds=30):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            text = self.show("StatusText")
            if words in text and self.show("ActiveState") == "active":
                return text
            time.sleep(0.2)
        raise Failed(f"STATUS never had {words!r}; it is {self.show('StatusText')!r} ({self.show('ActiveState')})\n{self.journal()[-3000:]}")

    def settle(self):
        """Up, with the shipped binary and a fresh count of exits."""
        self.box.run("bash", "-c", "systemctl stop sam2d.socket sam2d.service; rm -f /etc/systemd/system/sam2d.s*.d/test.conf; systemctl daemon-reload; systemctl reset-failed; true")
        self.configure("")
        self.box.run("systemctl", "start", "sam2d.service")
        self.status_is("ready:")

    def drop_in(self, text, unit="sam2d.service"):
        self.box.write(f"/etc/systemd/system/{unit}.d/test.conf", text)
        self.box.run("systemctl", "daemon-reload")

    def faulty(self, config="", more=""):
        """The program that can be told to fail."""
        self.box.run("systemctl", "stop", "sam2d.service")
        self.configure(config)
        self.drop_in(f"[Service]\nExecStart=\nExecStart=/opt/sam2d-faulty serve\nEnvironment=FAULTS_ORDERED_FROM_SAM2D={ORDERS}\n{more}")
        self.box.run("systemctl", "start", "sam2d.service")
        self.status_is("ready:")

    def order(self, word):
        self.box.write(ORDERS, word)

    def configure(self, text):
        self.box.write("/etc/sam2d/sam2d.toml", text)

    def segment(self, name="x", click=(160, 167), timeout=40):
        """One request; a fresh name for a fresh click, so that nothing is cached unless the same is asked."""
        x, y = click
        text = self.box.run(
            "curl", "-s", "-m", str(timeout), "-w", "\n%{http_code}", "-F", f"file=@{PHANTOM};filename={name}",
            "-F", "image_type=auto", "-F", f'click_points=[{{"x":{x},"y":{y},"label":1}}]',
            "-F", f"patient_id={CANARY}", SEGMENT, check=False, timeout=timeout + 20,
        )
        body, _, code = text.rpartition("\n")
        try:
            return int(code or 0), json.loads(body or "{}")
        except ValueError:
            return int(code or 0), {}

    def health(self):
        return json.loads(self.box.run("curl", "-s", "-m", "5", HEALTH))


@scenario
def installed_it_is_ready(service, say):
    deb = service.box.deb
    began = time.monotonic()
    say(service.box.run("bash", "-c", f"DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends /root/{deb} 2>&1 | tail -3", timeout=300))
    say(service.status_is("ready:"))
    say(f"apt install to READY: {time.monotonic() - began:.1f} s")
    say(service.wait_for("Started sam2d.service"))
    say(service.wait_for("golden image segmented"))
    code, answer = service.segment()
    expect(code == 200 and answer["bounding_box"], f"{code} {answer}")
    expect(service.box.run("sam2d", "health").startswith("OK: ready"), "sam2d health")
    entries = service.journal(fields=True)
    ready = [e for e in entries if e.get("MESSAGE") == "engine ready"]
    expect(ready and ready[0].get("F_BACKEND") == "cpu", f"structured fields are missing: {ready[:1]}")
    owner = service.box.run("stat", "-c", "%U %a", "/var/lib/sam2d/state", "/var/cache/sam2d", "/run/sam2d", "/var/lib/sam2d/engines")
    expect(owner.split("\n")[:4] == ["sam2d 700", "sam2d 700", "sam2d 700", "root 755"], owner)
    expect("user" in service.box.run("ps", "-o", "user:20=,pid=", "-p", service.show("MainPID")) or service.show("User") == "sam2d", "it runs as root")


@scenario
def units_are_sound_and_exposed_little(service, say):
    verify = service.box.run("bash", "-c", "systemd-analyze verify sam2d.service sam2d.socket 2>&1")
    expect(verify.strip() == "", verify)
    say("systemd-analyze verify: clean")
    line = service.box.run("bash", "-c", "systemd-analyze security --no-pager sam2d.service | tail -1").strip()
    say(line)
    expect(float(re.search(r"(\d+\.\d)", line).group(1)) <= 2.0, line)
    service.box.run("bash", "-c", "install -D -m 0644 /usr/share/sam2d/gpu.conf /etc/systemd/system/sam2d.service.d/gpu.conf; systemctl daemon-reload")
    verify = service.box.run("bash", "-c", "systemd-analyze verify sam2d.service 2>&1", check=False)
    line = service.box.run("bash", "-c", "systemd-analyze security --no-pager sam2d.service | tail -1").strip()
    say("with the GPU drop-in: " + line)
    service.box.run("bash", "-c", "rm -r /etc/systemd/system/sam2d.service.d; systemctl daemon-reload")
    expect(verify.strip() == "", verify)


@needs_faulty
def the_packaged_program_cannot_be_told_to_fail(service, say):
    count = lambda path: int(service.box.run("bash", "-c", f"grep -ac FAULTS_ORDERED_FROM_SAM2D {path} || true").strip())
    expect(count("/opt/sam2d-faulty") > 0, "the word is not in the faulty program either: the test looks for the wrong one")
    expect(count("/usr/bin/sam2d") == 0, "the packaged program has the feature `faults`")
    say("the word that names its orders is in the faulty program and not in the packaged one")


@scenario
def acceptance_passes_and_is_reported(service, say):
    text = service.box.run("sam2d", "accept", "--restart", check=False, timeout=180)
    say(text)
    expect("result: **passed**" in text and text.count("| passed |") == 7, "the acceptance report")
    bad = service.box.run("bash", "-c", "sam2d accept --url http://127.0.0.1:1; echo exit $?")
    expect("**FAILED**" in bad and "exit 1" in bad, bad)


@scenario
def a_prometheus_reads_the_metrics_and_answers_what_alerts_and_board_ask(service, say):
    page = service.box.run("curl", "-s", "-D", "/tmp/head", f"{HERE}/metrics")
    head = service.box.run("cat", "/tmp/head")
    media_type = re.search(r"(?im)^content-type: (.*?)\r?$", head).group(1)
    word = prometheus.checked(page)
    expect(word == "", f"promtool check metrics: {word}")
    say("promtool check metrics: nothing to say")
    named = set(re.findall(r"^(sam2d_[a-z0-9_]+)", page, re.M))
    machine = {"sam2d_memory_bytes", "sam2d_free_bytes", "sam2d_clock"}
    expect(machine <= named, f"the machine's figures are missing: {machine - named}")
    alerts, board = ROOT / "config/prometheus/sam2d-alerts.yml", ROOT / "config/grafana/sam2d.json"
    with prometheus.Server(page, media_type, alerts) as server:
        expect(server.health() == ("up", ""), f"{server.health()}")
        series = {found["metric"]["__name__"] for found in server.ask('{__name__=~"sam2d_.+"}')}
        expect(named <= series, f"lost on the way: {named - series}")
        asked = prometheus.expressions(alerts, board)
        found = [expression for expression in asked if server.ask(expression)]
        say(f"{len(series)} metrics scraped; {len(asked)} expressions understood, {len(found)} of them have series now")
        # Whatever every box has; temperatures and the like are there where the machine tells them.
        for expression in asked:
            bare = re.fullmatch(r"(sam2d_[a-z_]+)(\{instance=~\"\.\*\"\})?", expression)
            if bare and bare.group(1) in named:
                expect(expression in found, f"no series: {expression}")
        firing = {found["metric"]["alertname"] for found in server.ask('ALERTS{alertstate="firing"}')}
        expect(not firing, f"a box that is well fires {firing}")


@scenario
def every_command_of_the_documents_works(service, say):
    service.settle()
    for line in documents.walk(service, ROOT):
        say(line)
    service.settle()


@scenario
def a_reload_takes_what_it_can_and_drops_nothing(service, say):
    service.configure("")
    service.box.run("systemctl", "restart", "sam2d.service")
    service.status_is("ready:")
    traffic = service.box.start(
        f"for i in $(seq 40); do curl -s -m 30 -o /dev/null -w '%{{http_code}}\\n' -F file=@{PHANTOM} -F image_type=auto "
        f"-F 'click_points=[{{\"x\":'$((120+i))',\"y\":150,\"label\":1}}]' {SEGMENT}; done"
    )
    since = service.now()
    pid = service.show("MainPID")
    service.configure("[segment]\nlow_confidence = 1.0\n[engine]\nhang_s = 50\n")
    service.box.run("systemctl", "reload", "sam2d.service")
    say(service.wait_for("reload: the configuration is in force", since))
    say(service.wait_for("need a restart: engine.hang_s", since))
    fields = [e for e in service.journal(since, fields=True) if "reload" in str(e.get("MESSAGE"))]
    expect(any(e.get("F_KEYS") == "engine.hang_s" for e in fields), f"{fields}")
    expect(any(e.get("F_ENGINE") == "unchanged" for e in fields), f"{fields}")
    codes = traffic.communicate(timeout=300)[0].split()
    expect(len(codes) == 40 and set(codes) == {"200"}, f"requests were dropped: {codes}")
    say(f"{len(codes)} requests during the reload, all 200")
    code, answer = service.segment()
    expect(any("low confidence" in warning for warning in answer["warnings"]), f"{answer['warnings']}")
    since = service.now()
    traffic = service.box.start(
        f"for i in $(seq 40); do curl -s -m 30 -o /dev/null -w '%{{http_code}}\\n' -F file=@{PHANTOM} -F image_type=auto "
        f"-F 'click_points=[{{\"x\":'$((120+i))',\"y\":152,\"label\":1}}]' {SEGMENT}; done"
    )
    for threads in (1, 2, 1):
        since = service.now()
        service.configure(f"[engine]\ncpu_threads = {threads}\n")
        service.box.run("systemctl", "reload", "sam2d.service")
        service.wait_for("reload: the configuration is in force, the engine loaded anew", since)
        service.status_is("ready:")
    codes = traffic.communicate(timeout=300)[0].split()
    expect(len(codes) == 40 and set(codes) == {"200"}, f"requests were dropped: {codes}")
    say(f"{len(codes)} requests while the engine was loaded anew three times, all 200")
    since = service.now()
    service.configure("[segment]\nlow_confidnce = 0.1\n")
    service.box.run("systemctl", "reload", "sam2d.service")
    say(service.wait_for("the configuration is wrong; the old one stays", since))
    expect(service.show("MainPID") == pid and service.segment()[0] == 200, "the daemon did not stay")
    service.configure("[engine]\npath = \"/nowhere\"\n")
    service.box.run("systemctl", "reload", "sam2d.service")
    say(service.wait_for("the working engine stays", since))
    expect(service.health()["available"], "a wrong package took the working engine down")


@needs_faulty
def a_stop_drains(service, say):
    service.faulty()
    service.order("slow")
    service.box.run("curl", "-s", "-o", "/dev/null", HEALTH)
    asked = service.box.start(
        f"curl -s -m 40 -o /dev/null -w '%{{http_code}}' -F file=@{PHANTOM} -F image_type=auto "
        f"-F 'click_points=[{{\"x\":150,\"y\":160,\"label\":1}}]' -F 'window={{\"center\":41,\"width\":401}}' {SEGMENT}"
    )
    time.sleep(0.7)
    since = service.now()
    began = time.monotonic()
    service.box.run("systemctl", "stop", "sam2d.service")
    took = time.monotonic() - began
    code = asked.communicate(timeout=60)[0]
    say(service.wait_for("finishing what was accepted", since))
    say(f"a request that was under way: {code}; stopped after {took:.1f} s")
    expect(code == "200", f"the request under way was lost: {code}")
    expect(service.show("Result") == "success", service.show("Result"))
    expect(service.box.run("bash", "-c", "ls /run/sam2d 2>/dev/null | wc -l").strip() == "0", "the runtime folder outlives a stop")


@scenario
def with_its_socket_held_nobody_is_refused_over_a_restart(service, say):
    service.settle()
    service.box.run("systemctl", "stop", "sam2d.service")
    service.box.run("systemctl", "start", "sam2d.socket")
    expect(service.show("ActiveState") == "inactive", "the service is up before anybody asked")
    traffic = service.box.start(
        f"for i in $(seq 60); do curl -s -m 30 -o /dev/null -w '%{{http_code}}\\n' -F file=@{PHANTOM} -F image_type=auto "
        f"-F 'click_points=[{{\"x\":'$((120+i))',\"y\":154,\"label\":1}}]' {SEGMENT}; sleep 0.04; done"
    )
    for _ in range(3):
        time.sleep(0.7)
        service.box.run("systemctl", "restart", "sam2d.service")
    codes = traffic.communicate(timeout=120)[0].split()
    expect(len(codes) == 60 and set(codes) == {"200"}, f"{codes}")
    say(f"{len(codes)} segmentations over 3 restarts, all 200")
    service.box.run("systemctl", "stop", "sam2d.socket", "sam2d.service")
    since = service.now()
    service.drop_in("[Socket]\nListenStream=\nListenStream=0.0.0.0:8642\n", unit="sam2d.socket")
    service.box.run("systemctl", "start", "sam2d.socket")
    service.box.run("systemctl", "start", "sam2d.service", check=False)
    say(service.wait_for("nothing says who may ask", since))
    expect(service.show("ExecMainStatus") == "78", service.show("ExecMainStatus"))
    service.box.run("bash", "-c", "systemctl stop sam2d.socket; rm -r /etc/systemd/system/sam2d.socket.d; systemctl daemon-reload; systemctl reset-failed")


# The state diagram, one scenario an arrow. LOADING → READY is the installation's.


@needs_faulty
def ready_to_manual_only_after_three_failures_and_back_by_timer(service, say):
    service.faulty("[engine]\nretry_first_s = 1\n[log]\nlevel = \"info\"\n")
    hit = service.segment(click=(160, 160))
    expect(hit[0] == 200, f"{hit}")
    service.order("fail")
    since = service.now()
    codes = [service.segment(click=(100 + i, 120))[0] for i in range(3)]
    expect(codes[0] == 503, f"{codes}")
    say(service.status_is("manual-only: the engine failed several times in a row"))
    say(service.wait_for("manual-only mode", since))
    expect(service.show("NRestarts") == "0", "it restarted")
    expect(service.box.run("sam2d", "health", check=False).startswith("WARNING: manual-only"), "sam2d health")
    code, answer = service.segment(click=(160, 160))
    expect(code == 200 and answer["cached"], f"a verified engine's hit is not served: {code} {answer}")
    service.box.run("rm", ORDERS)
    say(service.status_is("ready:", 20))
    expect(service.segment(click=(101, 121))[0] == 200, "it does not work again")


@needs_faulty
def manual_only_to_loading_by_reload(service, say):
    service.faulty("[engine]\nretry_first_s = 300\nretry_max_s = 300\n")
    service.order("nan")
    for i in range(3):
        service.segment(click=(90 + i, 130))
    service.status_is("manual-only")
    service.box.run("rm", ORDERS)
    time.sleep(2)
    expect("manual-only" in service.show("StatusText"), "the timer was faster")
    service.box.run("systemctl", "reload", "sam2d.service")
    say(service.status_is("ready:", 20))


@scenario
def a_missing_engine_is_waited_for_and_a_broken_one_said(service, say):
    service.settle()
    service.box.run("systemctl", "stop", "sam2d.service")
    service.configure("[engine]\npath = \"site-engine\"\nretry_first_s = 300\nretry_max_s = 300\n")
    since = service.now()
    service.box.run("systemctl", "start", "sam2d.service")
    say(service.status_is("manual-only: the engine package is missing"))
    time.sleep(3)
    expect(service.show("NRestarts") == "0", "a restart loop")
    folder = "/var/lib/sam2d/engines"
    service.box.run("bash", "-c", f"cp -r /root/engine {folder}/.half && printf x >> {folder}/.half/decoder.onnx && mv {folder}/.half {folder}/site-engine")
    time.sleep(4)
    expect("manual-only" in service.show("StatusText"), "a broken package serves")
    expect(service.show("NRestarts") == "0", "a restart loop")
    say(service.box.run("bash", "-c", "sam2d doctor || true"))
    service.box.run("bash", "-c", f"rm -r {folder}/site-engine; cp -r /root/engine {folder}/.half && mv {folder}/.half {folder}/site-engine")
    say(service.status_is("ready:", 20))
    say(service.wait_for("engine ready", since))
    service.box.run("rm", "-r", f"{folder}/site-engine")


@needs_faulty
def a_hang_ends_the_process_and_ready_again_within_ten_seconds(service, say):
    service.faulty("[engine]\nhang_s = 2\n")
    since = service.now()
    service.order("hang")
    asked = service.box.start(f"curl -s -m 20 -o /dev/null -F file=@{PHANTOM} -F image_type=auto -F 'click_points=[{{\"x\":99,\"y\":140,\"label\":1}}]' {SEGMENT}")
    say(service.wait_for("status=70", since))
    ended = time.monotonic()
    say(service.status_is("ready:", 15))
    took = time.monotonic() - ended
    asked.wait(timeout=30)
    say(f"READY again {took:.1f} s after the end")
    expect(took < 10 and service.show("NRestarts") == "1", f"{took} s, {service.show('NRestarts')} restarts")
    # The second and third such end: the next process leaves the engine alone.
    since = service.now()
    for word in ("lost", "hang"):
        service.order(word)
        service.segment(click=(98, 141), timeout=8)
        time.sleep(1.5)
        service.status_is("", 15)
    say(service.status_is("manual-only: the service had to restart several times", 20))
    expect(service.show("NRestarts") == "3", service.show("NRestarts"))
    say(service.wait_for("the process ends, so that it is started anew: the device is lost", since))
    time.sleep(3)
    expect(service.show("NRestarts") == "3", "it goes on restarting")
    service.box.run("systemctl", "reload", "sam2d.service")
    say(service.status_is("ready:", 20))


@scenario
def a_process_that_stands_still_is_ended_by_the_watchdog(service, say):
    service.settle()
    service.drop_in("[Service]\nWatchdogSec=3\n")
    service.box.run("systemctl", "restart", "sam2d.service")
    service.status_is("ready:")
    time.sleep(7)
    expect(service.show("NRestarts") == "0", "a daemon that is well does not feed the watchdog")
    since = service.now()
    service.box.run("kill", "-STOP", service.show("MainPID"))
    say(service.wait_for("Watchdog timeout", since, 20))
    ended = time.monotonic()
    say(service.status_is("ready:", 20))
    say(f"READY again {time.monotonic() - ended:.1f} s after the watchdog's word")
    expect(service.show("NRestarts") == "1", service.show("NRestarts"))
    service.box.run("bash", "-c", f"rm {DROPIN}; systemctl daemon-reload; systemctl restart sam2d.service")


@scenario
def nothing_of_a_patient_is_kept(service, say):
    service.settle()
    service.segment(name=CANARY)
    service.segment(name=CANARY, click=(-5, -5))
    service.box.run("sync")
    bundle = service.box.run("bash", "-c", "cd /root && sam2d doctor --bundle /root/bundle.tar.gz >/dev/null; tar -xOzf /root/bundle.tar.gz | wc -c; tar -xOzf /root/bundle.tar.gz | grep -ac CANARY; true")
    size, count = bundle.split()
    expect(int(size) > 1000 and count == "0", f"the bundle: {bundle}")
    found = service.box.run("bash", "-c", "grep -rlaE 'CANARY|Zebra' /var/cache/sam2d /var/lib/sam2d /run/sam2d /var/log 2>/dev/null; journalctl --no-pager | grep -cE 'CANARY|Zebra'; true").split()
    expect(found == ["0"], f"found in {found}")
    say(f"a patient's name and file name: not in cache, state, journal, nor in the bundle of {size} bytes")


@scenario
def a_box_whose_plug_was_pulled_boots_unattended(service, say):
    service.settle()
    expect(service.segment(click=(150, 150))[0] == 200, "no answer before")
    service.box.run("sync")
    service.box.pull_the_plug()
    service.box.boot()
    say(service.status_is("ready:"))
    code, answer = service.segment(click=(150, 150))
    expect(code == 200 and answer["cached"], f"the cache is lost: {code} {answer.get('cached')}")
    expect(service.show("NRestarts") == "0", "restarts")
    say("booted, READY, and the answer from before came from the cache")


@scenario
def with_a_read_only_root_it_serves(service, say):
    service.settle()
    service.box.shut_down()
    service.box.boot("--volatile=state")
    mounts = service.box.run("bash", "-c", "findmnt -no OPTIONS / || cat /proc/mounts | grep ' / '")
    expect(re.search(r"\bro\b", mounts), mounts)
    say("root: " + mounts.split("\n")[0][:60] + " …; " + service.status_is("ready:"))
    expect(service.segment()[0] == 200, "no answer")
    service.box.shut_down()
    service.box.boot()
    service.status_is("ready:")


scenario(a_signed_bundle_installs_without_network_and_goes_back)


@scenario
def a_purge_leaves_nothing(service, say):
    service.box.run("bash", "-c", "DEBIAN_FRONTEND=noninteractive apt-get purge -y sam2d 2>&1 | tail -2", timeout=120)
    left = service.box.run("bash", "-c", "find / -xdev -iname '*sam2d*' -not -path '/proc/*' -not -path '/root/*' -not -path '/opt/*' -not -path '/var/log/*' -not -path '/var/lib/systemd/*'; getent passwd sam2d; getent group sam2d; systemctl list-unit-files --no-legend 'sam2d*'; true").strip()
    expect(left == "", f"left behind:\n{left}")
    say("no file, no user, no unit is left")


def main():
    deb, faulty, tools, *names = sys.argv[1:]
    chosen = [s for s in scenarios if not names or s is scenarios[0] or any(name in s.__name__ for name in names)]
    if faulty == "-":
        chosen = [s for s in chosen if not getattr(s, "faulty", False)]
        print(f"not run, for want of a program that can be told to fail: {sum(getattr(s, 'faulty', False) for s in scenarios)} scenarios")
    base(tools)
    box = Box(tools)
    failed = []
    try:
        box.deb = pathlib.Path(deb).name
        box.copy(deb, f"/root/{box.deb}")
        if faulty != "-":
            box.copy(faulty, "/opt/sam2d-faulty", 0o755)
        shutil.copytree(ROOT / "engines/sam2-nano", box.root / "root/engine")
        began = time.monotonic()
        box.boot()
        print(f"a box of {box.run('systemctl', '--version').splitlines()[0]}, up after {time.monotonic() - began:.1f} s", flush=True)
        service = Service(box)
        for number, run in enumerate(chosen):
            title = run.__name__.replace("_", " ")
            began = time.monotonic()
            lines = []
            try:
                run(service, lines.append)
                word = "ok"
            except (Failed, prometheus.Wrong, subprocess.TimeoutExpired, KeyError, json.JSONDecodeError, AttributeError, IndexError) as error:
                word = "FAILED"
                failed.append(title)
                lines.append(f"{type(error).__name__}: {error}")
                lines.append(service.journal()[-2500:] if box.leader else "")
            print(f"{word:6} {title} ({time.monotonic() - began:.1f} s)", flush=True)
            for line in lines:
                for part in line.strip().splitlines():
                    print(f"       | {part}", flush=True)
            if word == "FAILED" and number == 0:
                break
            if word == "FAILED" and not box.leader:
                box.boot()
    finally:
        box.remove()
    print(f"{len(chosen)} scenarios, {len(failed)} failed" + (": " + "; ".join(failed) if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
