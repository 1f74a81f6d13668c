"""The table of jobs: what it says after another start, and after damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_runtime.errors import MimoError
from mimo_runtime.services.dicom_node.ledger import ANSWERED, DELIVERED, SENT, Ledger, ResultObject

OBJECTS = [ResultObject("seg.dcm", "1.1", "2.25.1"), ResultObject("sr.dcm", "1.2", "2.25.2")]


def test_a_job_is_known_once_and_keeps_its_state(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.add("job", "study", "series", "rule", "content")
    assert not ledger.add("job", "study", "series", "rule", "content")
    ledger.start("job")
    ledger.set_answered("job", OBJECTS)
    ledger.set_sent("job", "seg.dcm")
    again = Ledger(tmp_path / "ledger")  # as after kill -9: the first is not closed
    assert again.next_waiting() is None and again.counts()["answered"] == 1
    assert [one.is_sent for one in again.objects("job")] == [True, False] and again.is_result("2.25.2")
    assert [job.state for job in again.to_deliver()] == [ANSWERED]


def test_jobs_that_were_begun_come_after_others(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger")
    for name in "abc":
        ledger.add(name, "study", "series", "rule", name)
    ledger.start("a")
    assert ledger.next_waiting().job == "b"
    ledger.take_back_start("a")
    assert ledger.next_waiting().job == "a" and ledger.is_waiting("study")


def test_commitment_is_awaited_for_the_last_request_only(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger")
    ledger.add("job", "study", "series", "rule", "content")
    ledger.set_answered("job", OBJECTS)
    assert ledger.set_requested("job", "2.25.8", 0) and ledger.set_requested("job", "2.25.9", 0)
    assert ledger.job_of("2.25.8") is None and ledger.job_of("2.25.9").state == SENT and ledger.job_of("") is None
    ledger.set_state("job", DELIVERED)
    assert not ledger.set_requested("job", "2.25.10", 0) and ledger.job_of("2.25.9") is None


def test_a_damaged_ledger_is_one_line(tmp_path: Path):
    (tmp_path / "ledger").write_bytes(b"no table" * 200)
    with pytest.raises(MimoError, match="cannot be used") as refused:
        Ledger(tmp_path / "ledger")
    assert "\n" not in str(refused.value)
