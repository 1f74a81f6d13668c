"""``mimo-bench profile``: the parts of an answer add up, and every graph has operators and work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_cli import refused, run

from mimo_benchmarks.profile import measure as module
from mimo_benchmarks.profile.measure import measure
from mimo_benchmarks.profile.peaks import bandwidth, gemm_peaks
from mimo_benchmarks.profile.results import Profile
from mimo_benchmarks.profile.table import profile_table
from mimo_benchmarks.report.figures import profile_result
from mimo_benchmarks.request import Request
from mimo_runtime.graphs import check_outputs
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.pipeline import Mimo


@pytest.fixture(scope="module")
def result(bundle: Path, request_: Request) -> Profile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "gemm_peaks", lambda threads: gemm_peaks(threads, size=64, depth=2, seconds=0))
        patch.setattr(module, "MEMORY_BYTES", 1 << 20)
        patch.setattr(module, "bandwidth", lambda size, threads: bandwidth(size, threads, seconds=0))
        return measure(bundle, request_, threads=1, repeats=2)


def test_time_in_engines_and_the_causes_outside_are_the_whole_answer(result: Profile) -> None:
    assert set(result["asks"]) == {"first_ask", "known_image", "known_prompt"}
    for ask in result["asks"].values():
        assert all(ms >= 0 for ms in ask["causes_ms"].values())
        assert ask["engine_ms"] + sum(ask["causes_ms"].values()) == pytest.approx(ask["mean_ms"], abs=0.01)
        assert ask["outside_fraction"] == pytest.approx(ask["outside_ms"] / ask["mean_ms"], abs=1e-3)
    first = result["asks"]["first_ask"]
    assert first["causes_ms"]["preprocess"] > 0 and first["causes_ms"]["bindings_and_copies"] > 0
    assert first["tokens"] == 6 and set(first["graphs_ms"]) == set(GRAPHS)
    known = result["asks"]["known_image"]
    assert "vision_encoder" not in known["graphs_ms"] and min(first["engine_ms"], known["engine_ms"]) > 0
    assert result["asks"]["known_prompt"]["graphs_ms"] == {} and result["asks"]["known_prompt"]["engine_ms"] == 0


def test_every_graph_has_operators_and_shares_of_the_peaks(result: Profile) -> None:
    assert list(result["graphs"]) == list(GRAPHS)
    for graph in result["graphs"].values():
        assert graph["run_ms"] > 0 and graph["operators"] and graph["bandwidth_share"] > 0
        assert sum(kind["share"] for kind in graph["kinds"]) == pytest.approx(1, abs=0.01)
    vision = result["graphs"]["vision_encoder"]
    assert vision["macs"]["fp32"] > 0 and vision["peak_share"] > 0 and vision["limit"] in ("products", "bytes")
    assert result["graphs"]["text_decoder"]["runs"] == 6 and vision["runs"] == 1


def test_the_table_names_causes_graphs_and_slowest_operators(result: Profile) -> None:
    text = profile_table(result, operators=True)
    slowest = result["graphs"]["fusion"]["operators"][0]["name"]
    assert all(word in text for word in ("thread hand over", "vision_encoder", "known prompt", "GOP/s", slowest))


def test_nothing_stays_recorded_after_a_profile(result: Profile) -> None:
    import onnxruntime

    from mimo_runtime import graphs

    assert graphs.check_outputs is check_outputs and not hasattr(onnxruntime.InferenceSession.run, "__wrapped__")


def test_a_missing_folder_and_a_bundle_for_a_gpu_are_refused(tmp_path: Path, bundle: Path, monkeypatch) -> None:
    refused(run("profile", bundle, "--json", tmp_path / "none" / "out.json"), "folder does not exist")
    (tmp_path / "file").write_text("")
    refused(run("profile", bundle, "--report", tmp_path / "file"), "is a file")
    monkeypatch.setattr(module, "ENGINES", dict.fromkeys(module.ENGINES, module.ENGINES["tensorrt"]))
    monkeypatch.setattr(Mimo, "load", lambda *a, **k: pytest.fail("worked first"))
    refused(run("profile", bundle), "bundle for the CPU")


def test_the_command_writes_numbers_and_a_report(tmp_path: Path, bundle: Path, result: Profile, monkeypatch) -> None:
    monkeypatch.setattr(module, "measure", lambda *a, **k: result)
    done = run("profile", bundle, "--text", "aorta", "--report", tmp_path / "report", "--json", tmp_path / "out.json")
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert {key: value for key, value in written.items() if key != "result"} == result
    assert "| graph | operator |" in (tmp_path / "report" / "profile.md").read_text()
    header = written["result"]
    assert header["command"] == "profile" and header["subject"].startswith(f"{result['bundle']} (cpu; fp32")
    figures = {figure["name"]: figure["value"] for figure in header["figures"]}
    assert figures["first ask"] == result["asks"]["first_ask"]["total"]["p50_ms"]
    for name, graph in result["graphs"].items():
        what = "the peak" if graph["limit"] == "products" else "the bandwidth"
        share = graph["peak_share"] if graph["limit"] == "products" else graph["bandwidth_share"]
        assert figures[f"{name}, of {what}"] == pytest.approx(100 * share, abs=0.06)


def test_a_report_has_stages_and_the_roofline_of_a_profile(tmp_path: Path, result: Profile) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "old.json").write_text(json.dumps(result))  # of an earlier release, without the header
    done = run("report", tmp_path)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["results"] == 1 and summary["unreadable"] == {}
    page, text = (Path(summary[key]).read_text("utf-8") for key in ("html", "markdown"))
    assert page.count("<svg") == 1 and "limit FP32" in page
    for title in ("Time by stage, ms", "Time outside engines by cause, ms", "Graphs against the limits of the machine"):
        assert title in page and title in text
    first = result["asks"]["first_ask"]
    assert f"| first ask | {first['total']['p50_ms']:.2f} | {first['mean_ms']:.2f} |" in text
    assert all(f"| {name} | " in text for name in result["graphs"])


def test_goals_of_a_profile_depend_on_the_precision(result: Profile) -> None:
    vision, text = dict(result["graphs"]["vision_encoder"]), dict(result["graphs"]["text_decoder"])
    vision |= {"macs": {"fp32": 1, "int8": 9}, "limit": "bytes", "peak_share": 0.4}
    text |= {"limit": "bytes", "bandwidth_share": 0.3}
    reduced = {**result, "graphs": {"vision_encoder": vision, "text_decoder": text}}
    figures = {figure.name: figure for figure in profile_result(reduced).figures}
    assert figures["vision_encoder, of the peak"].reached is True and figures["vision_encoder, of the peak"].goal == 35
    assert figures["text_decoder, of the bandwidth"].reached is False
    full = {**result, "graphs": {"vision_encoder": {**vision, "macs": {"fp32": 9, "int8": 1}, "limit": "products"}}}
    assert {figure.name: figure.goal for figure in profile_result(full).figures}["vision_encoder, of the peak"] is None
