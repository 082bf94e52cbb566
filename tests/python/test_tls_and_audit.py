"""TLS as OpenSSL and curl see it, and the audit trail as a collector of syslog over TLS gets it."""

from __future__ import annotations

import base64
import collections
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import dicom_audit
import pytest

BINARY = os.environ.get("SAM2D_BIN")
PICTURE = Path(__file__).resolve().parents[2] / "samples" / "phantom-axial.png"
CANARY = "Kanarienvogel^Hans"

pytestmark = pytest.mark.skipif(not BINARY, reason="SAM2D_BIN names no binary")


def sam2d(*words: str, home: Path) -> str:
    done = subprocess.run([BINARY, *words, "--state-dir", home], capture_output=True, text=True, check=True)
    return done.stdout


class Collector:
    """A collector of RFC 5425: octet-counted frames over TLS."""

    def __init__(self, folder: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.socket = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = self.socket.getsockname()[1]
        self.messages: list[str] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                while length := b"".join(iter(lambda: stream.read(1).strip(), b"")):
                    self.messages.append(stream.read(int(length)).decode("utf-8"))

    def wait(self, count: int) -> list[str]:
        deadline = time.monotonic() + 20
        while len(self.messages) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.messages


class Daemon:
    def __init__(self, home: Path, **environment: str) -> None:
        keys = {
            "SAM2D_HTTP__LISTEN": '["127.0.0.1:0"]',
            "SAM2D_TLS__LISTEN": '["127.0.0.1:0"]',
            "SAM2D_CACHE__ENABLED": "false",
        }
        self.process = subprocess.Popen(
            [BINARY, "serve", "--state-dir", home],
            env=os.environ | keys | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.port = 0
        for line in self.process.stdout:
            if found := re.match(r"listening on https://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def curl(self, *words: str) -> tuple[int, str]:
        url = f"https://localhost:{self.port}"
        words = [word.replace("URL", url, 1) for word in words]
        done = subprocess.run(["curl", "-sS", "-m", "60", *words], capture_output=True, text=True)
        return done.returncode, done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    sam2d("cert", "init", "--name", "localhost", "--name", "127.0.0.1", home=tmp_path)
    return tmp_path


def s_client(port: int, authority: Path, *words: str) -> tuple[int, str]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-CAfile", authority]
    done = subprocess.run([*command, "-verify_return_error", *words], input="", capture_output=True, text=True, errors="replace", timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not (shutil.which("openssl") and shutil.which("curl")), reason="no openssl or curl")
def test_openssl_and_curl_are_let_in_as_they_should_and_not_otherwise(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = home / "tls" / "ca.pem"
    other = tmp_path_factory.mktemp("other")
    sam2d("cert", "init", "--name", "localhost", home=other)
    with Daemon(home) as daemon:
        for words, protocol in ((["-tls1_3"], "TLSv1.3"), (["-tls1_2"], "TLSv1.2")):
            code, said = s_client(daemon.port, authority, "-verify_hostname", "localhost", *words)
            assert code == 0 and "Verify return code: 0 (ok)" in said and protocol in said, said
        code, said = s_client(daemon.port, authority, "-alpn", "h2")
        assert code == 0 and "ALPN protocol: h2" in said, said
        for words in (["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], ["-verify_hostname", "box8.example"]):
            code, said = s_client(daemon.port, authority, *words)
            assert code != 0, said
        code, said = s_client(daemon.port, other / "tls" / "ca.pem")
        assert code != 0 and "Verify return code: 0 (ok)" not in said, said

        trusting = ["--cacert", str(authority)]
        for version in ("--http1.1", "--http2"):
            code, said = daemon.curl(*trusting, version, "-o", "/dev/null", "-w", "%{http_code} %{http_version}", "URL/livez")
            assert (code, said.split()[0]) == (0, "200"), said
        # A refusal is read whole, whenever the body that nobody wanted arrives.
        refused = [*trusting, "--http2", "-H", "Origin: https://evil.example", "-d", "x", "-o", "/dev/null", "-w", "%{http_code}"]
        assert {daemon.curl(*refused, "URL/api/segmentation/sam2") for _ in range(60)} == {(0, "403")}
        assert daemon.curl("URL/livez")[0] == 60, "an authority nobody trusts"
        assert daemon.curl(*trusting, "--tls-max", "1.1", "URL/livez")[0] != 0


def parsed(message: str) -> ET.Element:
    """The XML of a message whose header is RFC 5424's."""
    head, xml = message.split(" - \ufeff", 1)
    assert re.fullmatch(r"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S+ sam2d \d+ DICOM\+RFC3881", head), head
    return ET.fromstring(xml.encode())


def post(port: int, authority: Path, body: bytes, token: str) -> bytes:
    """The answer to one request over TLS."""
    context = ssl.create_default_context(cafile=authority)
    lines = ["POST /api/segmentation/sam2 HTTP/1.1", "Host: localhost", "Connection: close", f"Authorization: Bearer {token}"]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost") as client:
        client.sendall("\r\n".join(lines).encode() + body)
        return client.makefile("rb").read()


def test_a_collector_gets_every_record_as_a_dicom_audit_message(home: Path) -> None:
    collector = Collector(home / "tls")
    authority = home / "tls" / "ca.pem"
    keys = {"SAM2D_AUDIT__SYSLOG": f"localhost:{collector.port}", "SAM2D_AUDIT__SYSLOG_CA": str(authority)}
    may, may_not = (sam2d("token", "create", name, "--scope", name, home=home).strip() for name in ("segment", "metrics"))
    with Daemon(home, **keys) as daemon:
        picture = base64.b64encode(PICTURE.read_bytes()).decode()
        click = [{"x": 160, "y": 167, "label": 1}]
        body = {"image_data": picture, "image_type": "middle", "click_points": click}
        named = json.dumps(body | {"patient_id": CANARY}).encode()
        for _ in range(100):
            answer = post(daemon.port, authority, named, may)
            if b" 503 " not in answer[:20]:
                break
            time.sleep(0.3)
        assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
        assert post(daemon.port, authority, json.dumps(body).encode(), may).startswith(b"HTTP/1.1 200")
        assert post(daemon.port, authority, named, may_not).startswith(b"HTTP/1.1 403")
        assert post(daemon.port, authority, named, "sam2d_nobody").startswith(b"HTTP/1.1 401")
        sam2d("token", "revoke", "metrics", home=home)
        sam2d("cert", "init", "--renew", home=home)
        time.sleep(3)
    events = collections.defaultdict(list)
    collector.wait(9)
    time.sleep(0.5)
    for message in collector.messages:
        assert CANARY not in message
        root = parsed(message)
        wrong = [*dicom_audit.faults(root), *dicom_audit.broken_rules(root)]
        assert not wrong, f"{wrong} in {message}"
        code, kind = root.find(".//EventID"), root.find(".//EventTypeCode")
        events[code.attrib["csd-code"], kind.attrib["csd-code"] if kind is not None else ""].append(root)
    # Start and stop, refusal, wrong token, configuration and engine, tokens, certificate.
    alerts = [("110113", kind) for kind in ("110132", "110131", "110137", "110129")]
    for expected in [("110100", "110120"), ("110100", "110121"), ("110114", "110122"), *alerts]:
        assert expected in events, (expected, list(events))
    patients = {o.attrib["ParticipantObjectID"] for root in events["110110", ""] for o in root.iter("ParticipantObjectIdentification") if o.attrib["ParticipantObjectTypeCode"] == "1"}
    said = subprocess.run([BINARY, "audit", "patient", "--state-dir", home], input=CANARY, capture_output=True, text=True, check=True)
    assert patients == {said.stdout.strip(), "unknown"}
    for segmented in events["110110", ""]:
        requestor = next(p for p in segmented.findall("ActiveParticipant") if p.attrib["UserIsRequestor"] == "true")
        assert requestor.attrib["NetworkAccessPointID"] == "127.0.0.1"
    written = sam2d("audit", "verify", home=home)
    assert written.startswith("right: "), written
    assert int(written.split()[1]) == len(collector.messages), "as many as on the disk"


def test_a_message_that_is_not_as_the_standard_has_it_is_noticed() -> None:
    code = 'csd-code="{}" codeSystemName="DCM" originalText="{}"'
    right = (
        '<AuditMessage><EventIdentification EventActionCode="E" EventDateTime="2026-01-01T00:00:00Z" EventOutcomeIndicator="0">'
        f'<EventID {code.format(110113, "Security Alert")}/><EventTypeCode {code.format(110131, "Software Configuration")}/>'
        '</EventIdentification><ActiveParticipant UserID="a" UserIsRequestor="false"/>'
        '<AuditSourceIdentification AuditSourceID="a"><AuditSourceTypeCode csd-code="4"/></AuditSourceIdentification>'
        '<ParticipantObjectIdentification ParticipantObjectID="u" ParticipantObjectTypeCode="2"><ParticipantObjectIDTypeCode '
        'csd-code="12" codeSystemName="RFC-3881" originalText="URI"/><ParticipantObjectName>n</ParticipantObjectName>'
        '<ParticipantObjectDetail type="Alert Description" value="eA=="/></ParticipantObjectIdentification></AuditMessage>'
    )

    def wrong(text: str) -> list[str]:
        root = ET.fromstring(text)
        return [*dicom_audit.faults(root), *dicom_audit.broken_rules(root)]

    assert wrong(right) == []
    for old, new in [
        ("<ParticipantObjectName>n</ParticipantObjectName>", ""),
        ("Alert Description", "Description"),
        ('"110131"', '"110110"'),
        ("Software Configuration", "Hardware Configuration"),
        ('EventActionCode="E"', 'EventActionCode="R"'),
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ('UserIsRequestor="false"', 'UserIsRequestor="true"'),
        (' UserIsRequestor="false"', ""),
        ("eA==", "?"),
        ('csd-code="12"', 'csd-code="2"'),
    ]:
        assert old in right and wrong(right.replace(old, new)), new
