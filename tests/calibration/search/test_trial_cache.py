"""A pipeline answers once, and again where anything differs."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from mimo_calibration.search import trial_cache as module
from mimo_calibration.search.loss import Reply
from mimo_calibration.search.trial_cache import TrialCache
from mimo_runtime.errors import RequestError

NAME = "Doe_Jane_1950.png"
CHAIN, TRIAL = ("onnxruntime 2 aa", "openvino 2 bb"), "questions"
SAID = [("ct", NAME, "box", 0.1 + 0.2, True, None), ("ct", NAME, "absent", None, False, "no “cyst”")]
#: What is kept: the name of an image may name a patient.
REPLIES = [Reply(s, hashlib.sha256(NAME.encode()).hexdigest()[:16], *rest) for s, _, *rest in SAID]


class Chain:
    def __init__(self) -> None:
        self.asked = 0

    def ask(self) -> list[Reply]:
        self.asked += 1
        return [Reply(*row) for row in SAID]


@pytest.mark.parametrize("kept", [False, True])
def test_the_same_pipeline_is_asked_once(tmp_path, kept):
    folder, chain = tmp_path / "cache" if kept else None, Chain()
    answers = TrialCache(folder, "model")
    assert [answers.get(CHAIN, TRIAL, None, chain.ask) for _ in range(2)] == [REPLIES, REPLIES]
    assert chain.asked == 1
    assert not kept or not any(b"Doe" in path.read_bytes() for path in folder.iterdir())
    # Another process: only a folder keeps replies.
    assert TrialCache(folder, "model").get(CHAIN, TRIAL, None, chain.ask) == REPLIES
    assert chain.asked == (1 if kept else 2)


def test_any_difference_is_asked_again(tmp_path, monkeypatch):
    chain = Chain()
    TrialCache(tmp_path, "model").get(CHAIN, TRIAL, None, chain.ask)
    TrialCache(tmp_path, "other model").get(CHAIN, TRIAL, None, chain.ask)
    TrialCache(tmp_path, "model").get(("onnxruntime 1 aa", CHAIN[1]), TRIAL, None, chain.ask)
    TrialCache(tmp_path, "model").get(CHAIN, "other questions", None, chain.ask)
    assert chain.asked == 4 and len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(module, "program_hash", lambda: "after a change of the code")
    TrialCache(tmp_path, "model").get(CHAIN, TRIAL, None, chain.ask)
    assert chain.asked == 5


def test_shortened_replies_serve_only_their_reference(tmp_path):
    chain, answers = Chain(), TrialCache(tmp_path, "model")
    other = [Reply("ct", "a.png", "absent", None, False, "another text")]
    answers.get(CHAIN, TRIAL, REPLIES, chain.ask)
    answers.get(CHAIN, TRIAL, REPLIES, chain.ask)
    assert chain.asked == 1
    answers.get(CHAIN, TRIAL, other, chain.ask)
    answers.get(CHAIN, TRIAL, None, chain.ask)  # nothing may be missing at the end
    assert chain.asked == 3
    answers.get(CHAIN, TRIAL, [], chain.ask)  # whole texts serve every reference
    assert chain.asked == 3


@pytest.mark.parametrize("content", [b"", b"[[1, 2", b"[[1]]", b"7"])
def test_a_file_that_cannot_be_read_is_written_anew(tmp_path, content):
    chain = Chain()
    TrialCache(tmp_path, "model").get(CHAIN, TRIAL, None, chain.ask)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert TrialCache(tmp_path, "model").get(CHAIN, TRIAL, None, chain.ask) == REPLIES
    assert chain.asked == 2 and TrialCache(tmp_path, "model").get(CHAIN, TRIAL, None, chain.ask) == REPLIES and chain.asked == 2


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError) as caught:
        TrialCache(tmp_path, "model").get(CHAIN, TRIAL, None, Chain().ask)
    assert str(caught.value).startswith(f"cache {tmp_path} cannot be written: No space left on device. Make room or choose")
    assert not list(tmp_path.iterdir())


def test_the_program_is_its_code_and_its_libraries():
    assert len(module.program_hash()) == 64 and module.program_hash() == module.program_hash()
