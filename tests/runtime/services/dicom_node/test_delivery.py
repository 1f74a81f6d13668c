"""Results reach their receiver once, whatever fails in between; storage commitment on both sides; STOW-RS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from dicomweb_store import Web
from node_cases import Archive, certificate, running_node, send, study
from ports import free_port
from pydicom.dataset import Dataset
from pynetdicom import AE
from waiting import PATIENCE_S, wait_for

from mimo_runtime.errors import RequestError
from mimo_runtime.services.dicom_node.commitment import Commitments
from mimo_runtime.services.dicom_node.ledger import Ledger
from mimo_runtime.services.dicom_node.metrics import NodeMetrics
from mimo_runtime.services.dicom_node.network import sending
from mimo_runtime.services.dicom_node.network.contexts import COMMITMENT, COMMITMENT_INSTANCE
from mimo_runtime.services.dicom_node.settings import NodeSettings, Peer, WebStore
from mimo_runtime.services.dicom_node.storage import Storage

OUT_OF_RESOURCES = 0xA700


def state(node, name: str) -> bool:
    return node.ledger.counts()[name] == 1


def test_a_result_waits_for_a_receiver_that_is_away(tmp_path: Path, archive: Archive):
    away = Peer("ARCHIVE", "127.0.0.1", free_port())
    with running_node(tmp_path / "data", away) as node:
        send(node.receiver.port, study())
        wait_for(lambda: node.ledger._jobs("attempts >= 2 AND state='answered'", ()))
    with running_node(tmp_path / "data", archive.peer) as node:  # another start, the same queue
        wait_for(lambda: state(node, "delivered"))
    assert sorted(data.Modality for data in archive.received) == ["SEG", "SR"]


def test_objects_that_were_taken_are_not_sent_again_with_the_others(tmp_path: Path, archive: Archive):
    archive.status = OUT_OF_RESOURCES
    with running_node(tmp_path / "data", archive.peer) as node:
        send(node.receiver.port, study())
        job = wait_for(lambda: node.ledger._jobs("attempts >= 1", ()))[0]
        node.ledger.set_sent(job.job, "seg.dcm")
        archive.status = 0
        wait_for(lambda: state(node, "delivered"))
    assert [data.Modality for data in archive.received] == ["SR"]


def test_a_result_that_nobody_takes_is_kept_aside_and_sent_on_request(tmp_path: Path, archive: Archive):
    archive.status = OUT_OF_RESOURCES
    with running_node(tmp_path / "data", archive.peer, retry_for_s=0) as node:
        send(node.receiver.port, study())
        wait_for(lambda: state(node, "undelivered"))
        [folder] = node.storage.undelivered.iterdir()
        assert {file.name for file in folder.iterdir()} == {"seg.dcm", "sr.dcm", "objects.json"}
    archive.status = 0
    with running_node(tmp_path / "data", archive.peer, before=lambda again: again.send_undelivered()) as node:
        wait_for(lambda: state(node, "delivered"))
        wait_for(lambda: not list(node.storage.results.iterdir()))
    assert sorted(data.Modality for data in archive.received) == ["SEG", "SR"]


@pytest.fixture
def committing() -> Iterator[Archive]:
    ports: list[int] = []
    receiver = Archive(node=lambda: ports[0])
    receiver.ports = ports
    yield receiver
    receiver.close()


def test_a_result_is_delivered_when_its_storage_is_committed(tmp_path: Path, committing: Archive):
    with running_node(tmp_path / "data", committing.peer, commit=True) as node:
        committing.ports.append(node.receiver.port)
        send(node.receiver.port, study(), "ARCHIVE")
        wait_for(lambda: state(node, "delivered"))
    assert committing.requests == 1 and len(committing.received) == 2


def test_a_report_on_the_association_of_its_request_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sending, "_SAME_ASSOCIATION_S", PATIENCE_S)
    receiver = Archive(reports_at_once=True)
    try:
        with running_node(tmp_path / "data", receiver.peer, commit=True) as node:
            send(node.receiver.port, study())
            wait_for(lambda: state(node, "delivered"))
        assert receiver.requests == 1
    finally:
        receiver.close()


def test_a_report_on_another_association_ends_the_wait_on_that_of_the_request(
    tmp_path: Path, committing: Archive, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    monkeypatch.setattr(sending, "_SAME_ASSOCIATION_S", 10 * PATIENCE_S)
    with running_node(tmp_path / "data", committing.peer, commit=True) as node:
        committing.ports.append(node.receiver.port)
        for _ in range(2):
            send(node.receiver.port, study(), "ARCHIVE")
        wait_for(lambda: node.ledger.counts()["delivered"] == 2)


def test_an_object_that_is_not_committed_is_sent_again(tmp_path: Path, committing: Archive):
    committing.commits = [False, True]
    with running_node(tmp_path / "data", committing.peer, commit=True) as node:
        committing.ports.append(node.receiver.port)
        send(node.receiver.port, study(), "ARCHIVE")
        wait_for(lambda: state(node, "delivered"))
    assert committing.requests == 2 and len(committing.received) == 3
    assert len({data.SOPInstanceUID for data in committing.received}) == 2


def request_commitment(port: int, instances: list[tuple[str, str]], caller: str = "ARCHIVE") -> int:
    request = Dataset()
    request.TransactionUID, request.ReferencedSOPSequence = "2.25.7", []
    for sop_class, uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        request.ReferencedSOPSequence.append(item)
    entity = AE(caller)
    entity.add_requested_context(COMMITMENT)
    association = entity.associate("127.0.0.1", port, ae_title="MIMO")
    status, _ = association.send_n_action(request, 1, COMMITMENT, COMMITMENT_INSTANCE)
    association.release()
    return status.Status


def test_commitment_is_reported_for_what_the_node_holds(tmp_path: Path, archive: Archive):
    with running_node(tmp_path / "data", archive.peer) as node:
        [image] = study()
        send(node.receiver.port, [image])
        held = (str(image.SOPClassUID), str(image.SOPInstanceUID))
        assert request_commitment(node.receiver.port, [held, (held[0], "1.2.3")]) == 0
        [(kind, report)] = wait_for(lambda: archive.reports)
        assert request_commitment(node.receiver.port, [held], "STRANGER") != 0
    assert kind == 2 and report.TransactionUID == "2.25.7"
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [held[1]]
    [failed] = report.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.3", 0x0112)


def test_reports_of_strangers_about_results_are_refused(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger")
    settings = NodeSettings(tmp_path, Peer("ARCHIVE", "127.0.0.1", 104))
    commitments = Commitments(settings, ledger, Storage(tmp_path / "data", 1 << 20, 0), NodeMetrics())
    ledger.add("job", "study", "series", "rule", "content")
    ledger.set_answered("job", [])
    assert ledger.set_requested("job", "2.25.7", 1e12)
    report = Dataset()
    for aet, transaction in (("STRANGER", "2.25.7"), ("ARCHIVE", "2.25.8")):
        report.TransactionUID = transaction
        assert commitments.take_report(aet, report) != 0
    assert ledger.counts()["sent"] == 1
    report.TransactionUID = "2.25.7"
    assert commitments.take_report("ARCHIVE", report) == 0 and ledger.counts()["delivered"] == 1


def test_results_go_to_a_dicomweb_service(tmp_path: Path):
    web = Web(503)
    with running_node(tmp_path / "data", WebStore(web.url, "Bearer abc")) as node:
        send(node.receiver.port, study())
        wait_for(lambda: state(node, "delivered"))
    assert len(web.bodies) == 1 and web.bodies[0].count(b"DICM") == 2
    assert [headers["Authorization"] for headers in web.headers] == ["Bearer abc"] * 2
    assert web.headers[0]["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
    web.server.shutdown()


def test_objects_that_a_service_did_not_take_are_sent_again(tmp_path: Path):
    web = Web(206)
    with running_node(tmp_path / "data", WebStore(web.url)) as node:
        send(node.receiver.port, study())
        wait_for(lambda: state(node, "delivered"))
    assert [body.count(b"DICM") for body in web.bodies] == [2, 1]
    web.server.shutdown()


def test_a_service_over_tls_needs_a_certificate_that_is_trusted(tmp_path: Path):
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    web = Web(tls=context)
    with running_node(tmp_path / "data", WebStore(web.url)) as node:
        send(node.receiver.port, study())
        wait_for(lambda: node.ledger._jobs("attempts >= 1", ()))
    assert not web.bodies
    with running_node(tmp_path / "data", WebStore(web.url, ca=cert)) as node:
        wait_for(lambda: state(node, "delivered"))
    assert len(web.bodies) == 1
    web.server.shutdown()


def test_a_redirect_is_not_followed(tmp_path: Path):
    web = Web(302, 307)
    with running_node(tmp_path / "data", WebStore(web.url, "Bearer abc")) as node:
        send(node.receiver.port, study())
        wait_for(lambda: state(node, "delivered"))
    assert len(web.headers) == 3
    web.server.shutdown()


def test_wrong_receivers_are_refused(tmp_path: Path):
    for text in ("ARCHIVE", "A@B", "A@b:0", "A@b:99999", "TOO_LONG_A_TITLE_X@b:104", "A B@c:104"):
        with pytest.raises(RequestError):
            Peer.of(text)
    for url in ("ftp://a/b", "http://", "http://user:word@host/x", "http://host/x?y"):
        with pytest.raises(RequestError):
            WebStore(url)
    with pytest.raises(RequestError, match="storage commitment"):
        NodeSettings(tmp_path, WebStore("http://host/x"), commit=True)
