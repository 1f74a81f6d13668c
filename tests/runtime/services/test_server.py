"""A real server on a free port of this machine: what only sockets, signals and processes show."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import threading
import uuid
from pathlib import Path

import fakes
import pytest

pytest.importorskip("uvicorn")
from click.testing import CliRunner
from hostile_files import bombs, deflated_dicom
from served_process import running
from waiting import PATIENCE_S, wait_for

from mimo_runtime.cli.commands import main
from mimo_runtime.services.settings import ApiKeys, ServerSettings

SETTINGS = ServerSettings(port=0, max_callers=1, max_waiting=1)


def test_a_bundle_is_served_and_loaded_again_and_ends_on_sigterm(start):
    server = start("--log-level", "debug")
    assert server.request("GET", "/health") == (200, {"status": "ok"})
    assert server.request("GET", "/ready") == (200, {"status": "ready", "samples": 2})
    image = server.upload()
    status, answer = server.ask(image)
    assert status == 200 and answer["findings"][0]["phrase"] == "polyp"
    _, metrics = server.request("GET", "/metrics")
    assert 'mimo_http_requests_total{method="POST",route="/v1/ask",status="200"} 1.0' in metrics["text"]
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for(lambda: server.metric("mimo_model_generation") == 2)
    again = server.ask(image)[1]
    assert again["findings"] == answer["findings"] and again["model"]["generation"] == 2
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    asked = [line for line in lines if line.get("route") == "/v1/ask"]
    assert [(line["event"], line["status"], line["method"]) for line in asked] == [("request", 200, "POST")] * 2
    assert "polyp" not in server.log and image not in server.log


def test_a_wrong_start_is_one_line(bundle_folder: Path, tmp_path: Path):
    keys = tmp_path / "keys"
    keys.write_text("short")
    for options, words in (
        (("--host", "0.0.0.0"), "without an API key"),
        (("--key-file", str(keys)), "shorter than 16"),
        (("--tls-cert", str(keys)), "certificate and its key"),
        (("--tls-cert", str(keys), "--tls-key", str(keys)), "TLS files cannot be used"),
        (("--host", "192.0.2.1", "--insecure"), "cannot listen"),
        (("--bundles", str(tmp_path / "missing")), "does not exist"),
    ):
        outcome = CliRunner().invoke(main, ["serve", str(bundle_folder), "--port", "0", *options])
        assert outcome.exit_code == 2 and outcome.output.count("\n") == 1, outcome.output
        assert outcome.output.startswith("error: ") and words in outcome.output


def ask_in_thread(server, image: str, replies: list, **headers: str) -> threading.Thread:
    body = json.dumps({"image": image, "text": "polyp", "boxes": [fakes.BOX]}).encode()

    def ask() -> None:
        replies.append(server.request("POST", "/v1/ask", body, Content_Type="application/json", **headers))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_a_request_is_ended_by_its_id():
    mimo = fakes.fake_mimo()
    with running(SETTINGS, lambda: mimo) as server:
        image, replies, number = server.upload(), [], str(uuid.uuid4())
        with fakes.held(mimo, "mask_decoder"):
            thread = ask_in_thread(server, image, replies, X_Request_ID=number)
            wait_for(lambda: server.request("DELETE", f"/v1/requests/{number}")[0] == 204)
            thread.join(PATIENCE_S)
        status, content = replies[0]
        assert status == 409 and content["error"]["type"] == "cancelled" or content["finish_reason"] == "cancelled"


def test_a_client_that_leaves_frees_its_place():
    mimo = fakes.fake_mimo()
    with running(SETTINGS, lambda: mimo) as server, fakes.held(mimo, "mask_decoder"):  # an answer does not end by itself
        image = server.upload()
        body = json.dumps({"image": image, "text": "polyp"}).encode()
        head = (
            f"POST /v1/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for accept in (b"", b"Accept: text/event-stream\r\n"):
            left = server.connect()
            left.sendall(head.encode()[:-2] + accept + b"\r\n" + body)
            wait_for(lambda: len(server.app.service.jobs) == 1)
            left.close()
            wait_for(lambda: len(server.app.service.jobs) == 0)


def test_one_more_than_may_wait_gets_429_and_when_to_come_back():
    mimo = fakes.fake_mimo()
    with running(SETTINGS, lambda: mimo) as server:
        image, replies = server.upload(), []
        with fakes.held(mimo, "fusion"):
            threads = [ask_in_thread(server, image, replies) for _ in range(2)]
            wait_for(lambda: len(server.app.service.jobs) == 2)
            connection = http.client.HTTPConnection("127.0.0.1", server.port)
            connection.request("GET", f"/v1/images/{image}")
            refused = connection.getresponse()
        assert refused.status == 429 and int(refused.headers["Retry-After"]) >= 1
        assert json.load(refused)["error"]["message"].startswith("1 callers run and 1 wait")
        for thread in threads:
            thread.join(PATIENCE_S)
        assert [status for status, _ in replies] == [200, 200]
        assert replies[0][1]["findings"] == replies[1][1]["findings"]


def test_what_runs_is_finished_at_the_end(start):
    """The answer of a question that runs when SIGTERM comes arrives whole."""
    server = start()
    image, replies = server.upload(), []
    threads = [ask_in_thread(server, image, replies) for _ in range(6)]
    wait_for(lambda: server.process.poll() is not None or len(replies) >= 1)
    assert server.stop() == 0
    for thread in threads:
        thread.join(PATIENCE_S)
    assert {status for status, _ in replies} <= {200, 503} and (200 in {status for status, _ in replies})
    assert all("findings" in content or content["error"]["type"] == "closing" for _, content in replies)


def test_tls_is_served(tmp_path: Path):
    certificate, key = self_signed(tmp_path)
    with running(ServerSettings(port=0, tls_cert=certificate, tls_key=key)) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=PATIENCE_S)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200


def test_files_of_tls_are_loaded_again_and_broken_ones_change_nothing(start, tmp_path: Path):
    certificate, key = self_signed(tmp_path)
    (tmp_path / "new").mkdir()
    new_certificate, new_key = self_signed(tmp_path / "new")
    old_client, new_client = (ssl.create_default_context(cafile=str(path)) for path in (certificate, new_certificate))
    server = start("--tls-cert", str(certificate), "--tls-key", str(key), context=old_client)
    shutil.copy(new_certificate, certificate)
    os.kill(server.process.pid, signal.SIGHUP)  # a certificate without its key
    wait_for(lambda: "nothing was loaded again: the TLS files cannot be used: SSLError" in server.log)
    assert server.request("GET", "/health")[0] == 200 and server.metric("mimo_model_generation") == 1
    shutil.copy(new_key, key)
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for(lambda: "serving model generation 2" in server.log)
    server.context = new_client
    wait_for(lambda: is_trusted(server))


def is_trusted(server) -> bool:
    try:
        return server.request("GET", "/health")[0] == 200
    except ssl.SSLError:
        return False


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, and its key."""
    pytest.importorskip("cryptography")
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def test_events_come_one_by_one():
    """The first piece of the text arrives before the answer is complete."""
    mimo = fakes.fake_mimo()
    with running(SETTINGS, lambda: mimo) as server:
        image = server.upload()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        body = json.dumps({"image": image, "text": "polyp"})
        with fakes.held(mimo, "text_decoder", after=4):
            connection.request("POST", "/v1/ask", body, {"Content-Type": "application/json", "Accept": "text/event-stream"})
            reply, kinds = connection.getresponse(), []
            while "draft" not in kinds:
                line = reply.readline()
                assert line, "the answer came without a piece of the text"
                kinds += [line.split()[1].decode()] if line.startswith(b"event: ") else []
        kinds += [line.split()[1].decode() for line in reply if line.startswith(b"event: ")]
        assert kinds[0] == "request" and set(kinds[1:-1]) == {"draft"} and kinds[-1] == "answer"


def test_no_answer_is_lost_while_the_model_is_replaced():
    keys = ApiKeys(("a" * 32,))
    with running(ServerSettings(port=0, max_callers=2, admin_keys=keys), lambda: fakes.fake_mimo(delay=0.002)) as server:
        image, replies, ends = server.upload(), [], threading.Event()

        def ask() -> None:
            while not ends.is_set():
                replies.append(server.ask(image))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        swaps = [server.request("POST", "/v1/bundle", b"", X_Admin_Key="a" * 32)[1] for _ in range(5)]
        wait_for(lambda: any(content["model"]["generation"] == 6 for _, content in replies))
        ends.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert [swap["generation"] for swap in swaps] == [2, 3, 4, 5, 6]
        assert {status for status, _ in replies} == {200}
        assert {json.dumps(content["findings"]) for _, content in replies} == {json.dumps(replies[0][1]["findings"])}
        assert server.app.service.store.nbytes < 10_000_000  # encodings of earlier models are gone


@pytest.mark.slow
def test_hostile_files_take_no_memory(start):
    """Zip bombs, DICOM that inflates to 300 MB, and a body without end."""
    server = start("--max-body", "8", "--log-level", "error")
    server.ask(server.upload())
    before = server.peak_mb()
    for data in (*bombs().values(), deflated_dicom(300 << 20)):
        status, content = server.request("POST", "/v1/images", data, Content_Type="application/octet-stream")
        assert status == 422, content
    with server.connect() as client:
        head = "POST /v1/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(OSError):
            for _ in range(1 << 14):  # a gigabyte
                client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
    assert server.ask(server.upload())[0] == 200
    assert server.peak_mb() - before < 100
