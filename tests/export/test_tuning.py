"""``mimo-export build --tune``: threads by time, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import numpy as np
import pytest

from mimo_export import stages, tuning
from mimo_export.build_state import BuildRequest, BuildState
from mimo_export.parity.samples import Sample
from mimo_export.targets import TARGETS
from mimo_export.tuning import choose_threads, thread_counts, tune
from mimo_runtime.errors import RequestError
from mimo_runtime.loading import check_threads, masks_beside_text
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.model.tokenizer import EOS
from mimo_runtime.pipeline import Mimo
from mimo_runtime.preprocessing.prompts import Prompt


class Threaded(fakes.FakeEngine):
    """``fusion`` is faster with two threads, the others slower."""

    def __init__(self, graph: str, threads: int) -> None:
        super().__init__(graph, fakes.CONFIG)
        faster = graph == "fusion"
        self.seconds = 0.002 * (1 / threads if faster else threads)

    def _text_decoder(self, x):
        past = x["past_keys"]
        keys = np.concatenate(
            (past, past[:, :, :, :1] if past.shape[3] else np.zeros_like(x["cross_keys"][:, :, :, :1])), axis=3
        )
        logits = np.zeros((1, 1, self.config.vocab_size), np.float32)
        logits[0, 0, EOS if past.shape[3] > 2 else 300] = 5
        return {"logits": logits, "keys": keys, "values": keys}


def test_powers_of_two_and_all_cores_are_tried() -> None:
    assert [thread_counts(cores) for cores in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


@pytest.mark.parametrize(
    ("times", "chosen"),
    [({1: 10.0, 2: 6.0}, 2), ({1: 10.0, 2: 9.9, 4: 9.8}, 1), ({1: 2.0, 2: 2.4}, 1), ({1: 9.0, 2: 5.0, 4: 4.9}, 2)],
)
def test_more_threads_must_be_worth_it(times: dict[int, float], chosen: int) -> None:
    assert choose_threads(times) == chosen


def test_every_graph_gets_its_fastest_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "worker_threads", lambda: 2)
    monkeypatch.setattr(tuning, "usable_cores", lambda: 2)
    engines = []

    def create(graph: str, threads: int) -> Threaded:
        engines.append(Threaded(graph, threads))
        return engines[-1]

    def ask(recording) -> Mimo:
        return Mimo(fakes.CONFIG, recording, fakes.tokenizer())

    def graph_times(engines, calls, seconds):
        assert calls
        return {count: 1000 * engine.seconds for count, engine in engines.items()}

    def interleaved(runs, inputs, seconds):
        for run in runs.values():
            run(inputs[0])
        return {"one_by_one": 6.0, "beside": 4.0}

    monkeypatch.setattr(tuning, "graph_times", graph_times)
    monkeypatch.setattr(tuning, "interleaved", interleaved)
    visited = []
    samples = [Sample("phantom", "text", fakes.picture(value), Prompt("polyp")) for value in (100, 200)]
    tuned = tune(create, ask, samples, lambda *stage: visited.append(stage), seconds=0)
    assert tuned.threads == {**dict.fromkeys(GRAPHS, 1), "fusion": 2}
    assert tuned.tuning["cores"] == 2 and set(tuned.tuning["graphs_ms"]) == set(GRAPHS)
    assert tuned.tuning["masks_beside_text"] and set(tuned.tuning["answer_ms"]) == {"one_by_one", "beside"}
    assert all(engine.closed for engine in engines) and len(visited) == len(GRAPHS) + 1


def test_the_cores_of_other_programs_do_not_include_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, own = iter((100.0, 101.5)), iter((7.0, 8.0))
    monkeypatch.setattr(tuning, "_busy_seconds", lambda: next(machine))
    monkeypatch.setattr(tuning.time, "process_time", lambda: next(own))
    monkeypatch.setattr(tuning.time, "monotonic", iter((0.0, 1.0)).__next__)
    assert tuning.busy_cores(0) == 0.5


def test_a_busy_machine_tunes_no_threads_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stages, "busy_cores", lambda: 1.7)
    monkeypatch.setattr(stages, "tune", lambda *a: pytest.fail("was tuned"))
    messages: list[str] = []
    state = BuildState(BuildRequest(tmp_path, TARGETS["cpu"], tune=True), tmp_path, warn=messages.append)
    stages.tune_threads(state)
    assert state.tuning is None and "other programs use 1.7 cores" in messages[0]


def with_tuning(bundle_folder: Path, **threads: int | None):
    from onnx_bundle import reseal

    from mimo_runtime.bundle.archive import Bundle

    manifest = json.loads((bundle_folder / "manifest.json").read_text())
    if cores := threads.pop("cores", None):
        manifest["tuning"] = {"cores": cores, "masks_beside_text": True}
    for name, count in threads.items():
        manifest["graphs"][name]["threads"] = count
    reseal(bundle_folder, manifest)
    return Bundle.open(bundle_folder).manifest


@pytest.mark.parametrize(
    ("threads", "cores", "tuned", "beside"),
    [(2, 2, {}, False), (1, 2, {}, True), (4, 4, {}, True), (2, 2, {"cores": 2}, True), (2, 2, {"cores": 4}, False),
     (2, 2, {"mask_decoder": 1, "text_decoder": 1}, True), (2, 2, {"text_decoder": 1}, False)],
)  # fmt: skip
def test_masks_run_beside_the_text_where_there_are_cores_or_the_bundle_was_tuned(
    tmp_path, threads, cores, tuned, beside
) -> None:
    from onnx_bundle import write_bundle

    manifest = with_tuning(write_bundle(tmp_path / "bundle", golden=0), **tuned)
    assert masks_beside_text(manifest, threads, cores) is beside


def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimo_runtime.loading.usable_cores", lambda: 2)
    check_threads(2)
    with pytest.raises(RequestError, match="threads is 3, and this process may use 2 cores. Use a whole number from 1 to 2"):
        check_threads(3)
