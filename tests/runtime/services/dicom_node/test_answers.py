"""What a study that is sent to a node becomes at the receiver of its results."""

from __future__ import annotations

from pathlib import Path

import fakes
from node_cases import LIVER, SEG, SR, Archive, running_node, send, study
from pydicom import dcmread
from pydicom.uid import RLELossless, generate_uid
from pynetdicom import AE
from waiting import wait_for

from mimo_runtime.services.dicom_node.arrivals import Arrivals
from mimo_runtime.services.dicom_node.rules import Rule


def jobs(node) -> dict[str, int]:
    return {state: count for state, count in node.ledger.counts().items() if count}


def ended(node, count: int = 1) -> bool:
    return node.ledger.counts()["delivered"] >= count


def test_a_study_comes_back_as_segmentation_and_report(tmp_path: Path, archive: Archive):
    sent = study(3)
    with running_node(tmp_path / "data", archive.peer) as node:
        assert send(node.receiver.port, sent) == [0, 0, 0]
        wait_for(lambda: ended(node))
        wait_for(lambda: not list(node.storage.results.iterdir()))
    segmentation, report = (archive.of(modality) for modality in ("SEG", "SR"))
    assert [len(segmentation), len(report)] == [1, 1] and len(archive.received) == 2
    assert {data.StudyInstanceUID for data in archive.received} == {sent[0].StudyInstanceUID}
    assert (segmentation[0].SOPClassUID, report[0].SOPClassUID) == (SEG, SR)
    assert segmentation[0].SegmentSequence[0].SegmentLabel == "liver"
    assert report[0].PatientName == "SECRET^NAME"


def test_verification_is_answered(tmp_path: Path, archive: Archive):
    with running_node(tmp_path / "data", archive.peer) as node:
        entity = AE("PACS")
        entity.add_requested_context("1.2.840.10008.1.1")
        association = entity.associate("127.0.0.1", node.receiver.port, ae_title="MIMO")
        assert association.send_c_echo().Status == 0
        association.release()


def test_a_refusal_becomes_a_report_with_its_text(tmp_path: Path, archive: Archive):
    with running_node(tmp_path / "data", archive.peer, [Rule("x", "gobbledygook", ("seg",))]) as node:
        send(node.receiver.port, study())
        wait_for(lambda: ended(node))
    [report] = archive.received
    texts = [str(element.value) for element in report.iterall() if element.keyword == "TextValue"]
    assert report.Modality == "SR" and any("does not know 'gobbledygook'" in text for text in texts)


def test_a_series_without_a_rule_is_not_answered(tmp_path: Path, archive: Archive):
    rules = [
        Rule("mr", "liver", modality=("MR",)), Rule("knee", "liver", body_part=("KNEE",)),
        Rule("late", "liver", series_description=("late*",)), Rule("class", "liver", sop_class=("1.2.3",)),
        Rule("large", "liver", min_images=2), Rule("fits", "liver", ("sr",), ("CT",), ("LIVER",), ("*ARTERIAL*",)),
    ]  # fmt: skip
    with running_node(tmp_path / "data", archive.peer, rules) as node:
        send(node.receiver.port, study(BodyPartExamined="LIVER", SeriesDescription="Early arterial phase"))
        wait_for(lambda: ended(node))
        assert jobs(node) == {"delivered": 1}
    assert [data.Modality for data in archive.received] == ["SR"]


def test_compressed_images_are_answered_as_they_come(tmp_path: Path, archive: Archive):
    sent = study(2)
    for data in sent:
        data.compress(RLELossless, generate_instance_uid=False)
    with running_node(tmp_path / "data", archive.peer) as node:
        assert send(node.receiver.port, sent) == [0, 0]
        wait_for(lambda: ended(node))
        [stored, _] = [path for paths in node.storage.series(node.storage.studies()[0]).values() for path in paths]
        assert dcmread(stored).file_meta.TransferSyntaxUID == RLELossless
    assert sorted(data.Modality for data in archive.received) == ["SEG", "SR"]


def test_a_question_of_two_rules_is_asked_once(tmp_path: Path, archive: Archive):
    rules = [Rule("first", "liver", ("sr",)), Rule("second", "liver"), Rule("other", "aorta", ("sr",))]
    with running_node(tmp_path / "data", archive.peer, rules) as node:
        send(node.receiver.port, study())
        wait_for(lambda: ended(node, 2))
        assert jobs(node) == {"delivered": 2}
    assert [data.Modality for data in archive.received] == ["SR", "SR"]


def test_a_study_is_complete_after_quiet_time_and_the_end_of_its_association(tmp_path: Path, archive: Archive):
    first, second = study(2)
    with running_node(tmp_path / "data", archive.peer) as node:
        entity = AE("PACS")
        entity.add_requested_context(first.SOPClassUID)
        association = entity.associate("127.0.0.1", node.receiver.port, ae_title="MIMO")
        association.send_c_store(first)
        wait_for(lambda: not node.arrivals.seconds_left() or node.arrivals.seconds_left() <= 0.02)
        assert not sum(node.ledger.counts().values())  # quiet for long enough, and still open
        association.send_c_store(second)
        association.release()
        wait_for(lambda: ended(node))
        assert jobs(node) == {"delivered": 1}
    assert len(archive.of("SEG")[0].ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 2


def test_what_is_sent_again_is_answered_once(tmp_path: Path, archive: Archive):
    sent = study(2)
    with running_node(tmp_path / "data", archive.peer) as node:
        send(node.receiver.port, sent)
        wait_for(lambda: ended(node))
        assert send(node.receiver.port, sent) == [0, 0]
    with running_node(tmp_path / "data", archive.peer) as node:  # all studies are planned again after a start
        wait_for(lambda: not len(node.arrivals))
        assert jobs(node) == {"delivered": 1}
    assert len(archive.received) == 2


def test_results_that_come_back_are_taken_and_left_out(tmp_path: Path, archive: Archive):
    with running_node(tmp_path / "data", archive.peer, [Rule("sc", "liver", ("seg", "sr", "sc"))]) as node:
        send(node.receiver.port, study())
        wait_for(lambda: ended(node))
        results = list(archive.received)
        assert {data.Modality for data in results} == {"SEG", "SR", "OT"}
        assert send(node.receiver.port, results) == [0, 0, 0]
        capture = next(data for data in results if data.Modality == "OT")
        capture.Manufacturer, capture.SOPInstanceUID = "Gateway", generate_uid()  # a copy that names us as contributor
        capture.file_meta.MediaStorageSOPInstanceUID = capture.SOPInstanceUID
        if "ContributingEquipmentSequence" in capture:
            assert send(node.receiver.port, [capture]) == [0]
        wait_for(lambda: not len(node.arrivals))
        assert len(node.storage) == 1 and jobs(node) == {"delivered": 1}
    assert len(archive.received) == 3


def test_images_are_removed_when_they_are_answered(tmp_path: Path, archive: Archive):
    with running_node(tmp_path / "data", archive.peer, keep_s=0) as node:
        sent = study(2)
        send(node.receiver.port, sent)
        wait_for(lambda: ended(node) and not len(node.storage))
        assert node.storage.studies() == []
        send(node.receiver.port, sent)  # and a later copy is not answered again
        wait_for(lambda: not len(node.storage) and not len(node.arrivals))
        assert jobs(node) == {"delivered": 1}
    assert len(archive.received) == 2


def test_an_answer_that_runs_at_the_end_is_finished_and_the_rest_is_kept(tmp_path: Path, archive: Archive):
    slow = [study(1), study(1)]
    with running_node(tmp_path / "data", archive.peer, make=lambda: fakes.fake_mimo(delay=0.1)) as node:
        for sent in slow:
            send(node.receiver.port, sent)
        wait_for(lambda: any(job.starts for job in node.ledger._jobs("state='waiting'", ())))
    with running_node(tmp_path / "data", archive.peer) as node:
        wait_for(lambda: ended(node, 2))
    assert len(archive.of("SEG")) == len(archive.of("SR")) == 2


def test_a_damaged_series_fails_and_the_others_are_answered(tmp_path: Path, archive: Archive):
    damaged, good = study()[0], study()
    damaged.PixelData = b"\0" * 10
    with running_node(tmp_path / "data", archive.peer) as node:
        assert send(node.receiver.port, [damaged, *good]) == [0, 0]
        wait_for(lambda: ended(node))
        wait_for(lambda: jobs(node) == {"delivered": 1, "failed": 1})
    assert len(archive.received) == 2


def test_the_default_rule_is_one_question():
    from mimo_runtime.cli.node import _rules

    assert _rules(None, "liver") == (Rule("ask", "liver"),) and LIVER.write == ("seg", "sr")


def test_an_image_that_comes_while_its_study_is_removed_is_kept(tmp_path: Path, archive: Archive):
    first, second = study(2)
    with running_node(tmp_path / "data", archive.peer, keep_s=0.5, quiet_s=1.0) as node:
        send(node.receiver.port, [first])
        wait_for(lambda: ended(node))
        send(node.receiver.port, [second])  # before the study is due to go, and complete after it
        wait_for(lambda: ended(node, 2))
        wait_for(lambda: not len(node.storage))
    assert len(archive.of("SR")) == 2


def test_studies_are_complete_once_and_wait_for_open_associations():
    arrivals = Arrivals(0.0)
    arrivals.note("a", 1)
    arrivals.note("b")
    assert arrivals.take_complete() == ["b"] and arrivals.take_complete() == []
    removed: list[str] = []
    assert not arrivals.unless_arriving("a", lambda: removed.append("a"))
    assert arrivals.unless_arriving("b", lambda: removed.append("b")) and removed == ["b"]
    arrivals.release(1)
    assert arrivals.take_complete() == ["a"] and arrivals.seconds_left() is None
