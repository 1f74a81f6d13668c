from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from mimo_benchmarks import latency
from mimo_benchmarks.contenders import CONTENDERS, ContenderSetup, Sample
from mimo_benchmarks.report.tables import latency_table
from mimo_benchmarks.request import KINDS
from mimo_benchmarks.sources import find_checkpoint, write_fp32_graphs
from mimo_benchmarks.turns.selection import SelectedContenders, select_contenders
from mimo_benchmarks.worker import Worker
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.errors import BundleError, EngineError, PromptError, RequestError
from mimo_runtime.model.graph_spec import GRAPHS, GraphSpec
from mimo_runtime.results.answer import Finding


def sample(
    total: float = 10.0, engine: float = 9.0, tokens: tuple[int, ...] = (1, 5), text: str = "liver", findings: tuple = ()
) -> Sample:
    return Sample(total, engine, 4.0 if tokens else 0.0, {"encode": 5.0}, {"fusion": [1.0, 2.0]}, tokens, text, findings)


def finding(query: int, *pixels: int) -> Finding:
    mask = np.zeros((1, 8), bool)
    mask[0, list(pixels)] = True
    return Finding("liver", mask, None, 1.0, 1.0, True, len(pixels), query, 1.0)


# -- arithmetic ------------------------------------------------------------------------------------------------------


def test_ratios_say_how_many_times_faster_mimo_is():
    mimo = {**{kind: {"p50_ms": 10.0} for kind in KINDS}, "tokens_per_s": 300.0}
    torch = {**{kind: {"p50_ms": 42.0} for kind in KINDS}, "tokens_per_s": 100.0}
    assert latency.ratios(mimo, torch) == {**dict.fromkeys(KINDS, 4.2), "tokens_per_s": 3.0}


def test_glue_is_the_share_of_time_outside_engines():
    assert latency.glue([sample(10, 9), sample(30, 15)]) == 0.4


def test_tokens_per_second_are_of_the_decoding_alone():
    found = latency.summarise({kind: [sample(), sample()] for kind in KINDS})
    assert found["tokens_per_s"] == 500  # 2 tokens in 4 ms
    assert found["first_ask"] == {"p50_ms": 10.0, "p90_ms": 10.0, "p99_ms": 10.0}
    assert found["graphs"]["fusion"]["p50_ms"] == 1.5


def test_contenders_that_answer_alike():
    same = sample(findings=(finding(0, 1, 2),))
    agreement = latency.compare({"mimo": sample(), "ort": sample()}, {"mimo": same, "ort": same})
    assert agreement["same_text"] and agreement["same_tokens"]
    assert agreement["differs"] == [] and agreement["masks_dice"] == {"ort": 1.0}


def test_contenders_that_do_not_answer_alike_are_named_and_cut_to_the_same_length():
    texts = {"mimo": sample(tokens=(1, 5, 6)), "ort": sample(tokens=(1, 7), text="spleen"), "torch": sample(tokens=(1, 5, 6))}
    masks = {
        "mimo": sample(findings=(finding(0, 1, 2), finding(3, 4))),
        "ort": sample(findings=(finding(0, 2, 3),)),  # half of one, and the other is missing
        "torch": sample(findings=(finding(3, 4), finding(0, 1, 2))),
    }
    agreement = latency.compare(texts, masks)
    assert agreement["differs"] == ["ort"]
    assert not agreement["same_text"] and not agreement["same_tokens"]
    assert agreement["decoded_tokens"] == {"mimo": 3, "ort": 2, "torch": 3}
    assert agreement["timed_tokens"] == 2
    assert agreement["masks_dice"] == {"ort": 0.25, "torch": 1.0}


# -- refusals --------------------------------------------------------------------------------------------------------


def measure(bundle: Path, request, **options):
    return latency.measure(bundle, request, repeats=2, warmup=1, threads=1, **options)


def test_an_unknown_contender_is_refused_with_the_known_ones(bundle, request_):
    with pytest.raises(RequestError, match="unknown contender 'tvm'.*torch, torch-bf16, compile, ort, .* or all"):
        measure(bundle, request_, against=["ort", "tvm"])


def test_torch_without_its_checkpoint_is_refused_with_the_option_to_add(bundle, request_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="--against torch needs the checkpoint.*Add --checkpoint CKPT") as refused:
        measure(bundle, request_, against=["torch"])
    assert refused.value.exit_code == 2


def test_a_missing_library_is_refused_with_the_extra_to_install():
    entry = dataclasses.replace(CONTENDERS["openvino"], modules=("no_such_library",))
    with pytest.raises(RequestError, match=r"needs no_such_library, .* pip install 'mimo-edge\[openvino\]'"):
        entry.check("openvino")
    inside = dataclasses.replace(CONTENDERS["optimum"], modules=("no_such_package.module",))
    with pytest.raises(RequestError, match=r"pip install 'mimo-edge\[optimum\]'"):
        inside.check("optimum")


def test_compile_without_a_compiler_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RequestError, match=r"C\+\+ compiler.*Install g\+\+"):
        CONTENDERS["compile"].check("compile")


def test_a_request_that_does_not_fit_is_refused_before_anything_starts(bundle, request_, monkeypatch):
    monkeypatch.setattr(latency, "Worker", None)
    with pytest.raises(PromptError, match="outside the image"):
        measure(bundle, dataclasses.replace(request_, boxes=((0, 0, 9999, 10),)), against=["ort"])
    with pytest.raises(PromptError, match="max_tokens is 96. Use 1 to 95"):
        measure(bundle, dataclasses.replace(request_, max_tokens=96), against=["ort"])


def test_all_takes_what_can_run_here_and_says_why_the_others_do_not(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    missing = dataclasses.replace(CONTENDERS["genai"], modules=("no_such_library",))
    monkeypatch.setitem(CONTENDERS, "genai", missing)
    selected = select_contenders(Bundle.open(bundle), ["all"], None)
    assert selected.names[0] == "mimo" and {"ort", "transformers", "sam2"} <= set(selected.names)
    assert selected.skipped["genai"] == "needs no_such_library, which is not installed"
    assert "--checkpoint" in selected.skipped["torch"]
    assert set(selected.names) | set(selected.skipped) == set(CONTENDERS) and not set(selected.names) & set(selected.skipped)
    with pytest.raises(RequestError, match="needs no_such_library"):
        select_contenders(Bundle.open(bundle), ["genai", "all"], None)


def test_a_contender_that_does_not_start_is_skipped_unless_it_was_named(bundle, request_, monkeypatch):
    def fails(name: str, setup: ContenderSetup) -> None:
        raise EngineError("no luck")

    monkeypatch.setattr(latency, "Worker", fails)
    selected = SelectedContenders(["mimo", "ort"], None, all=True)
    with ExitStack() as stack, pytest.raises(EngineError, match="no luck"):
        latency._start_workers(stack, selected, ContenderSetup(bundle, None, None, 1), request_, lambda *_: None)
    selected.names.remove("mimo")
    with ExitStack() as stack:
        assert latency._start_workers(stack, selected, ContenderSetup(bundle, None, None, 1), request_, lambda *_: None) == []
    assert selected.skipped == {"ort": "no luck"}


def test_a_contender_that_starts_and_cannot_answer_is_ended_and_skipped(bundle, request_, monkeypatch):
    ended: list[str] = []

    class Mute:
        kinds = ("mask_only",)

        def __init__(self, name: str, setup: ContenderSetup) -> None:
            self.name = name

        def ask(self, request: object, kind: str) -> None:
            if self.name == "edgetam":
                raise EngineError(f"contender edgetam failed: ImportError: {'needs timm ' * 30}", "Leave it out")

        def __enter__(self) -> Mute:
            return self

        def __exit__(self, *_: object) -> None:
            ended.append(self.name)

    monkeypatch.setattr(latency, "Worker", Mute)
    selected = SelectedContenders(["mimo", "edgetam", "ort"], None, all=True)
    with ExitStack() as stack:
        started = latency._start_workers(stack, selected, ContenderSetup(bundle, None, None, 1), request_, lambda *_: None)
        assert [worker.name for worker in started] == ["mimo", "ort"] and ended == ["edgetam"]
    reason = selected.skipped.pop("edgetam")
    assert reason.startswith("ImportError: needs timm") and len(reason) == 120 and not selected.skipped


def test_a_model_of_another_kind_is_compared_in_what_it_does():
    samples = {"mask_only": [sample(40.0, 38.0, ())], "second_ask_mask_only": [sample(10.0, 9.0, ())]}
    found = latency.summarise(samples)
    assert found["mask_only"]["p50_ms"] == 40 and found["tokens_per_s"] is None and "first_ask" not in found
    mimo = {**{kind: {"p50_ms": 10.0} for kind in KINDS}, "tokens_per_s": 300.0}
    assert latency.ratios(mimo, found) == {"mask_only": 4.0, "second_ask_mask_only": 1.0}
    text = latency.summarise({"text_only": [sample()]}, times=[])
    assert latency.ratios(mimo, text) == {"tokens_per_s": 0.6}  # its time has no image in it


# -- checkpoints and files -------------------------------------------------------------------------------------------


def test_the_checkpoint_of_a_bundle_is_found_by_its_hash(bundle, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = Bundle.open(bundle)
    assert find_checkpoint(opened, None) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "a").symlink_to(tmp_path)  # no checkpoint
    (tmp_path / "checkpoints" / "b").symlink_to(checkpoint)
    assert find_checkpoint(opened, None).samefile(checkpoint)
    assert find_checkpoint(opened, checkpoint) == checkpoint


def test_another_checkpoint_is_refused(bundle, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"another")
    with pytest.raises(BundleError, match="is not the one that bundle .* was built from"):
        find_checkpoint(Bundle.open(bundle), tmp_path)
    with pytest.raises(BundleError, match=r"has no model\.safetensors"):
        find_checkpoint(Bundle.open(bundle), tmp_path / "nothing")


def reduced(bundle: Path, kind: str = "int8") -> Bundle:
    """The bundle, saying that one graph is in reduced precision."""
    opened = Bundle.open(bundle)
    graphs = dict(opened.manifest.graphs)
    graphs["fusion"] = dataclasses.replace(graphs["fusion"], delivered={"int8": 0, "fp16": 0, "fp32": 1} | {kind: 3})
    opened.manifest = dataclasses.replace(opened.manifest, graphs=graphs)
    return opened


def test_file_contenders_get_the_files_of_an_fp32_bundle(bundle, tmp_path):
    write_fp32_graphs(Bundle.open(bundle), None, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        f"{g}.onnx": (bundle / "graphs" / f"{g}.onnx").read_bytes() for g in GRAPHS
    }


@pytest.mark.parametrize("kind", ["int8", "int8_weights", "int4", "fp16"])
def test_file_contenders_of_a_reduced_bundle_need_the_checkpoint(bundle, tmp_path, kind):
    with pytest.raises(RequestError, match="no FP32 ONNX files.*Add --checkpoint CKPT"):
        write_fp32_graphs(reduced(bundle, kind), None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_file_contenders_of_a_reduced_bundle_get_an_export_of_the_checkpoint(bundle, checkpoint, tmp_path, monkeypatch):
    class Exported:
        """In place of half a minute of exporting, which has its own tests."""

        def __init__(self, module: torch.nn.Module, spec: GraphSpec) -> None:
            self.name, self.parameters = spec.name, sum(p.numel() for p in module.parameters())

        def SerializeToString(self) -> bytes:
            return f"{self.name} {self.parameters}".encode()

    monkeypatch.setattr("mimo_export.graphs.trace.export_graph", Exported)
    write_fp32_graphs(reduced(bundle), checkpoint, tmp_path)
    found = {p.stem: p.read_text().split() for p in tmp_path.iterdir()}
    assert set(found) == set(GRAPHS)
    assert all(words[0] == graph and int(words[1]) > 0 for graph, words in found.items())


# -- processes -------------------------------------------------------------------------------------------------------


def test_a_contender_that_cannot_be_made_raises_its_own_error(tmp_path):
    with pytest.raises(BundleError, match="does not exist") as raised:
        Worker("mimo", ContenderSetup(tmp_path / "nothing", None, None, 1))
    assert raised.value.exit_code == 2 and raised.value.remedy


def test_a_contender_that_fails_is_named(bundle, tmp_path):
    (tmp_path / "vision_encoder.onnx").write_bytes(b"not ONNX")
    with pytest.raises(EngineError, match="contender ort failed: "):
        Worker("ort", ContenderSetup(bundle, None, tmp_path, 1))


def test_a_contender_that_dies_is_named_with_its_exit_code(bundle, request_):
    with Worker("mimo", ContenderSetup(bundle, None, None, 1)) as worker:
        assert worker.ask(request_, "mask_only").total_ms > 0
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="contender mimo died with exit code -9"):
            worker.ask(request_, "mask_only")


# -- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_measurement(bundle, checkpoint, request_):
    against = ["torch", "ort"] + (["openvino"] if importlib.util.find_spec("openvino") else [])
    steps = []
    # Long enough for the 16th token, from which on OpenVINO would go wrong (contenders.py).
    request = dataclasses.replace(request_, max_tokens=20)
    result = measure(bundle, request, against=against, checkpoint=checkpoint, progress=lambda *step: steps.append(step))
    json.dumps(result, allow_nan=False)

    assert list(result["contenders"]) == ["mimo", *against]
    for found in result["contenders"].values():
        for kind in KINDS:
            times = found[kind]
            assert set(times) == {"p50_ms", "p90_ms", "p99_ms"}
            assert 0 < times["p50_ms"] <= times["p90_ms"] <= times["p99_ms"]
        assert found["tokens_per_s"] > 0
        assert set(found["stages"]) == {"preprocess", "encode", "ground", "masks", "refine", "text", "postprocess"}
        assert set(found["graphs"]) == set(GRAPHS)
        assert set(found["glue_fraction"]) == set(KINDS) and all(0 <= g <= 1 for g in found["glue_fraction"].values())
        assert 20 < found["resident_mb"] <= found["peak_mb"]
    assert result["contenders"]["torch"]["resident_mb"] > result["contenders"]["mimo"]["resident_mb"] + 50  # it holds PyTorch

    assert list(result["ratios"]) == against
    assert all(set(ratio) == {*KINDS, "tokens_per_s"} for ratio in result["ratios"].values())
    mimo, ort = result["contenders"]["mimo"], result["contenders"]["ort"]
    times_faster = ort["first_ask"]["p50_ms"] / mimo["first_ask"]["p50_ms"]
    assert result["ratios"]["ort"]["first_ask"] == pytest.approx(times_faster, abs=1e-3)
    assert 0 < result["glue_fraction"] < 1

    agreement = result["agreement"]
    assert agreement["same_text"] and agreement["same_tokens"] and not agreement["differs"]
    assert set(agreement["decoded_tokens"].values()) == {agreement["timed_tokens"]} == {20}
    assert all(dice > 0.99 for dice in agreement["masks_dice"].values())

    machine = result["machine"]
    assert {"cpu", "cores", "threads", "memory_mb", "os", "python", "engines", "load_before", "load_after"} <= set(machine)
    assert result["skipped"] == {} and result["idle_cpu_s"] == 0
    assert result["between_turns"] == "stopped" and result["seed"] == 0 and result["check_alone"] is None
    assert machine["busy"] in (True, False) and machine["own_load"] > 0
    assert "allow_spinning=0" in mimo["spinning"]["onnxruntime"] and "allow_spinning=1" in ort["spinning"]["onnxruntime"]
    assert machine["threads"] == 1 and {"onnxruntime", "torch"} <= set(machine["engines"])
    assert steps[-1] == ("measuring", 3, 3) and steps[0] == ("starting mimo", 0, len(against) + 1)

    table = latency_table(result)
    assert "all the same text" in table and f"{result['ratios']['torch']['first_ask']:.2f}x" in table


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected")
def test_torch_compile_competes(checkpoint, bundle, request_, monkeypatch):
    """Traced as it will be, but without the minutes that the C++ compiler takes."""
    compiled, real = [], torch.compile

    def trace(module: torch.nn.Module, dynamic: bool) -> torch.nn.Module:
        compiled.append(dynamic)
        return real(module, dynamic=dynamic, backend="eager")

    monkeypatch.setattr(torch, "compile", trace)
    setup = ContenderSetup(bundle, checkpoint, None, 1)
    mine, theirs = (CONTENDERS[name].make(setup).ask(request_, KINDS["first_ask"]) for name in ("compile", "torch"))
    assert compiled == [False, False, False, False, False, True]  # the text decoder's cache grows
    assert (mine.text, mine.tokens) == (theirs.text, theirs.tokens)
    assert mine.graphs_ms.keys() == theirs.graphs_ms.keys()


def test_optimum_answers_as_onnx_runtime_does(bundle, request_, tmp_path):
    pytest.importorskip("optimum.onnxruntime")
    write_fp32_graphs(Bundle.open(bundle), None, tmp_path)
    setup = ContenderSetup(bundle, None, tmp_path, 1)
    mine, theirs = (CONTENDERS[name].make(setup).ask(request_, KINDS["first_ask"]) for name in ("optimum", "ort"))
    assert (mine.text, mine.tokens) == (theirs.text, theirs.tokens)
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(mine.findings, theirs.findings, strict=True))
