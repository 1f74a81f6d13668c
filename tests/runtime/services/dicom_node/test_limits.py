"""What a node refuses: callers, objects, sizes, connections; and what never leaves it."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import fakes
import pytest
from click.testing import CliRunner
from node_cases import AWAY, LIVER, Archive, NodeProcess, certificate, echo_over_tls, running_node, send, study
from pynetdicom import AE
from waiting import PATIENCE_S, wait_for

from mimo_runtime.cli.commands import main
from mimo_runtime.errors import RequestError
from mimo_runtime.services.dicom_node.rules import Rule
from mimo_runtime.services.dicom_node.settings import NodeSettings, Peer, Tls


def outcomes(node) -> dict[str, float]:
    lines = node.metrics.text().decode().splitlines()
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines if line.startswith("mimo_node_objects_total{")}


def test_only_known_callers_that_name_the_node_may_send(tmp_path: Path):
    with running_node(tmp_path / "data", AWAY, allow=("PACS",)) as node:
        port = node.receiver.port
        assert send(port, study(), "PACS") == [0] and send(port, study(), "AWAY") == [0]
        assert send(port, study(), "STRANGER") == [None] and send(port, study(), "PACS", "OTHER") == [None]
        assert outcomes(node) == {"stored": 2}


def test_an_object_without_room_is_refused_before_it_is_written(tmp_path: Path):
    with running_node(tmp_path / "data", AWAY, max_data=8192) as node:
        statuses = send(node.receiver.port, study(4))
        assert statuses[0] == 0 and statuses[-1] == 0xA700 and not list((tmp_path / "data" / "incoming").iterdir())
        assert node.storage.nbytes <= 8192
    with running_node(tmp_path / "other", AWAY, min_free=1 << 50) as node:
        assert send(node.receiver.port, study()) == [0xA700] and not len(node.storage)


def test_an_object_that_is_too_large_ends_its_association(tmp_path: Path):
    with running_node(tmp_path / "data", AWAY, max_instance=2000) as node:
        assert send(node.receiver.port, study()) == [None] and not len(node.storage)
        assert send(node.receiver.port, study()) == [None]


def test_objects_that_cannot_be_kept_have_a_status(tmp_path: Path):
    [no_study], [no_image], [swapped] = study(), study(Modality="SR", PixelData=None, Rows=None, Columns=None), study()
    del no_study.StudyInstanceUID
    with running_node(tmp_path / "data", AWAY) as node:
        assert send(node.receiver.port, [no_study, no_image]) == [0xC000, 0]
        assert outcomes(node) == {"damaged": 1, "no_image": 1} and not len(node.storage)
        assert not node.storage.has_instance(swapped.SOPInstanceUID)


def test_associations_are_bounded(tmp_path: Path):
    with running_node(tmp_path / "data", AWAY, max_associations=2) as node:
        open_ones = []
        for _ in range(3):
            entity = AE("PACS")
            entity.add_requested_context("1.2.840.10008.1.1")
            open_ones.append(entity.associate("127.0.0.1", node.receiver.port, ae_title="MIMO"))
        assert [one.is_established for one in open_ones] == [True, True, False]
        for one in open_ones[:2]:
            one.release()


def test_connections_that_send_nonsense_do_no_harm(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with running_node(tmp_path / "data", AWAY) as node:
        port = node.receiver.port
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00" + struct.pack(">I", 1 << 31) + b"x" * 100, b"\xff" * 64, b""):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
                connection.sendall(data)
        assert send(port, study()) == [0]
    assert "Traceback" not in capfd.readouterr().err


def test_connections_that_were_closed_do_not_count_as_open(tmp_path: Path):
    with running_node(tmp_path / "data", AWAY, max_associations=2) as node:
        for _ in range(6):  # as a load balancer does
            socket.create_connection(("127.0.0.1", node.receiver.port), timeout=PATIENCE_S).close()
        wait_for(lambda: send(node.receiver.port, study()) == [0])  # refused until the node has seen that they are closed


def test_nothing_of_a_patient_is_logged_or_in_names(bundle_folder: Path, tmp_path: Path):
    node = NodeProcess(
        bundle_folder, tmp_path / "data", "AWAY@127.0.0.1:9", "--ask", "SECRET", "--log-level", "debug", "--quiet", "0.2"
    )
    elements = {"SeriesDescription": "SECRET", "BodyPartExamined": "SECRET", "StudyDescription": "SECRET"}
    sent = study(2, **elements)
    sent[1].PixelData = b"\0\0"
    assert send(node.port, sent) == [0, 0]
    assert send(node.port, sent[:1], "SECRET") == [0]
    assert send(node.port, sent, "PACS", "SECRET") == [None, None]
    wait_for(lambda: "a result was not delivered" in node.log)
    wait_for(lambda: "the receiver does not answer C-ECHO: no association: no connection" in node.log)
    assert node.stop() == 0
    assert "SECRET" not in node.log and sent[0].StudyInstanceUID not in node.log
    for line in node.log.splitlines():
        json.loads(line)
    names = [str(path.relative_to(tmp_path)) for path in (tmp_path / "data").rglob("*")]
    assert not any("SECRET" in name or sent[0].SOPInstanceUID in name for name in names)
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert files and all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_the_log_of_the_library_is_silent_for_a_program_that_logs_everything(tmp_path: Path):
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    root, handler = logging.getLogger(), Keep()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with running_node(tmp_path / "data", AWAY) as node:
            assert send(node.receiver.port, study()) == [0]
            wait_for(lambda: node.ledger._jobs("attempts >= 1", ()))
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert records and not [record for record in records if record.name.startswith("pynetdicom")]
    assert not [record for record in records if "SECRET" in record.getMessage()]


def test_a_series_of_several_patients_is_not_answered(tmp_path: Path):
    first, second = study(2)
    second.PatientID = "OTHER"
    with running_node(tmp_path / "data", AWAY) as node:
        assert send(node.receiver.port, [first, second, *study()]) == [0, 0, 0]
        wait_for(lambda: node.ledger._jobs("attempts >= 1", ()))
        assert sum(node.ledger.counts().values()) == 1


def test_a_failure_of_the_model_is_tried_again_and_ends(tmp_path: Path):
    mimo = fakes.fake_mimo()
    mimo.engines["fusion"].failure = RuntimeError("SECRET")
    with running_node(tmp_path / "data", AWAY, make=lambda: mimo, retry_s=0.01) as node:
        send(node.receiver.port, study())
        wait_for(lambda: node.ledger.counts()["failed"] == 1)
        assert node.ledger._jobs("1", ())[0].starts == 3


def test_health_and_metrics_are_on_loopback(tmp_path: Path):
    with running_node(tmp_path / "data", AWAY) as node:
        assert node.status is not None
        send(node.receiver.port, study())

        def get(path: str) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", node.status.port, timeout=PATIENCE_S)
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()

        assert get("/health") == (200, b'{"status": "ok"}') and get("/ready")[0] == 200 and get("/other")[0] == 404
        status, text = get("/metrics")
        assert status == 200 and b'mimo_node_objects_total{outcome="stored"} 1.0' in text and b"mimo_node_ready 1.0" in text


def test_tls_needs_a_certificate_of_a_known_authority(tmp_path: Path, archive: Archive):
    cert, key = certificate(tmp_path)
    with running_node(tmp_path / "data", AWAY, tls=Tls(cert, key, cert)) as node:
        client = ssl.create_default_context(cafile=str(cert))
        assert echo_over_tls(node.receiver.port, client) is False  # no certificate
        with socket.create_connection(("127.0.0.1", node.receiver.port)):  # a handshake that never comes blocks nobody
            client.load_cert_chain(cert, key)
            assert echo_over_tls(node.receiver.port, client) is True
        assert send(node.receiver.port, study()) == [None]  # no TLS


def test_results_are_sent_over_tls(tmp_path: Path):
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(cert))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(cert, key)
    archive = Archive(tls=context)
    try:
        receiver = Peer("ARCHIVE", "localhost", archive.peer.port)
        with running_node(tmp_path / "data", receiver, tls=Tls(cert, key, cert, True)) as node:
            objects, client = study(), ssl.create_default_context(cafile=str(cert))
            client.load_cert_chain(cert, key)
            assert send(node.receiver.port, objects, tls=(client, "localhost")) == [0]
            wait_for(lambda: node.ledger.counts()["delivered"] == 1)
        assert len(archive.received) == 2
    finally:
        archive.close()


def test_two_nodes_do_not_share_a_folder(tmp_path: Path):
    def start_another() -> None:
        with running_node(tmp_path / "data", AWAY):
            pass

    with running_node(tmp_path / "data", AWAY), pytest.raises(RequestError, match="another node uses"):
        start_another()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "0.0.0.0"}, "would answer everybody"), ({"aet": "A B"}, "AE title"), ({"aet": "X" * 17}, "AE title"),
        ({"quiet_s": 0}, "quiet_s is 0"), ({"max_associations": 0}, "max_associations is 0"), ({"allow": ("",)}, "AE title"),
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_refused(tmp_path: Path, changes: dict[str, Any], words: str):
    with pytest.raises(RequestError, match=words):
        NodeSettings(tmp_path, AWAY, **changes)


@pytest.mark.usefixtures("own_logs")
def test_a_wrong_start_is_one_line(bundle_folder: Path, tmp_path: Path):
    rules = tmp_path / "rules.json"
    rules.write_text('{"rules": [{"name": "a", "ask": "liver", "colour": 1}]}')
    good = ["--data", str(tmp_path / "data"), "--return-to", "A@127.0.0.1:104"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases = (
            (good, "needs --rules or --ask"),
            ([*good, "--ask", "liver", "--rules", str(rules)], "needs --rules or --ask"),
            ([*good, "--rules", str(rules)], "unknown colour"),
            ([*good, "--ask", "liver", "--host", "0.0.0.0"], "would answer everybody"),
            ([*good, "--ask", "liver", "--tls-cert", str(rules)], "certificate and its key"),
            ([*good, "--ask", "liver", "--return-auth", str(rules)], "DICOMweb URL"),
            ([*good, "--ask", "liver", "--port", str(taken.getsockname()[1])], "cannot listen"),
            ([*good[:2], "--return-to", "nobody", "--ask", "liver"], "AET@HOST:PORT"),
        )
        for options, words in cases:
            outcome = CliRunner().invoke(main, ["node", str(bundle_folder), *options])
            assert outcome.exit_code == 2 and outcome.output.count("\n") == 1, outcome.output
            assert outcome.output.startswith("error: ") and words in outcome.output


def test_a_rule_that_the_model_cannot_answer_ends_the_node(tmp_path: Path):
    from dataclasses import replace

    config = replace(fakes.CONFIG, modalities=("ct",))
    make = lambda: fakes.fake_mimo(config=config)  # noqa: E731
    with running_node(tmp_path / "data", AWAY, [Rule("mr", "liver", modality=("MR",))], make) as node:
        assert node.wait_failed(PATIENCE_S) and "not trained on MR" in str(node.problem)
    assert LIVER.modality == () and os.path.isdir(tmp_path / "data")
