"""The limits of ``tests/support/structure.py``, and which parts of a package may import which others."""

from __future__ import annotations

import pytest
import structure
from structure import PACKAGES

#: Per package, the folders and modules that each one may import. What is not listed imports nothing of its own package.
MAY_IMPORT: dict[str, dict[str, str]] = {
    "mimo_runtime": {
        # Facts about the machine, files and models: nothing here knows of engines, pipelines or commands.
        "utils": "errors",
        "admission": "errors utils",
        "hardware": "utils",
        "model": "errors utils",
        "modalities": "errors utils",
        "imageio": "errors modalities utils",
        "series": "errors imageio modalities postprocessing request results utils",
        "preprocessing": "errors model",
        "domain": "errors modalities model preprocessing utils",
        # Engines and the bundles that hold their graphs.
        "engines": "errors hardware model utils",
        "compiler": "bundle engines errors hardware model utils",
        "bundle": "engines errors hardware model utils",
        "loading": "admission bundle domain engines errors hardware model utils",
        # From arrays to answers.
        "postprocessing": "model preprocessing",
        "viz": "postprocessing preprocessing",
        "refinement": "errors model postprocessing preprocessing text utils",
        "text": "errors model postprocessing utils",
        "results": "domain errors imageio modalities model postprocessing preprocessing text utils viz",
        "data": "errors imageio modalities postprocessing",
        "tiling": "errors postprocessing preprocessing utils",
        "request": "errors model preprocessing text tiling utils",
        "prompt_cache": "postprocessing preprocessing request text utils",
        "graphs": "admission engines errors model postprocessing preprocessing prompt_cache refinement request text tiling "
        "utils",
        "video": "errors imageio utils",
        "tracking": "errors graphs hardware imageio modalities model postprocessing preprocessing request results series text "
        "utils video viz",
        "scan": "admission domain graphs imageio loading postprocessing prompt_cache request results text utils",
        "pipeline": "admission domain engines errors graphs hardware imageio loading modalities model scan text tracking utils",
        # On top of the pipeline.
        "clinical": "errors imageio postprocessing preprocessing results series utils viz",
        "evaluation": "data errors model pipeline postprocessing preprocessing results text utils viz",
        "deploy": "bundle compiler engines errors evaluation hardware imageio loading model pipeline preprocessing results "
        "text utils",
        "services": "admission bundle clinical deploy errors hardware imageio loading modalities model pipeline preprocessing "
        "request results scan series text utils",
        "cli": "bundle clinical data deploy engines errors evaluation imageio modalities pipeline preprocessing request "
        "results series services tiling tracking utils video",
        "__main__": "cli",
    },
    "mimo_train": {
        "checkpoint": "model",
        "hf": "model",
        "data": "model",
        "training": "checkpoint data hf model",
        "averaging": "checkpoint training",
        "tuning": "checkpoint data",
        "torch_engine": "checkpoint model training",
        "ablation": "torch_engine training tuning",
        "cli": "ablation averaging checkpoint data torch_engine training tuning",
        "__main__": "cli",
    },
    "mimo_calibration": {
        "graph": "statistics",
        "search": "data graph statistics",
        "quantize": "data graph search",
        "diagnostics": "quantize search",
        "calibrate_bundle": "diagnostics quantize search",
        "tools": "calibrate_bundle graph quantize search",
        "cli": "calibrate_bundle data diagnostics quantize",
    },
    "mimo_export": {
        "targets": "schema",
        "manifest": "schema targets",
        "parity": "manifest schema targets",
        "graphs": "parity schema targets",
        "report": "parity schema",
        "domain": "parity schema",
        "build_state": "graphs parity schema targets",
        "tuning": "parity schema",
        "stages": "build_state check_weights domain graphs manifest parity report schema targets tuning",
        "build": "build_state parity schema stages targets",
        "tools": "graphs parity report schema targets",
        "demo": "build",
        "rtx_prove": "tools",
        "web": "",
        "cli": "build parity report schema targets triton web",
    },
    "mimo_benchmarks": {
        "report": "request",
        "reference_pipeline": "engine_trace request",
        "contenders": "engine_trace reference_pipeline request",
        "worker": "contenders request",
        "turns": "contenders report request sources worker",
        "latency": "contenders report request sources turns worker",
        "check_cost": "request",
        "circumference": "models",
        "clinical_cost": "dicom_slices",
        "footprint": "report request",
        "precision": "report",
        "revisions": "report",
        "suites": "report",
        "tracking": "report",
        "tiling": "report",
        "profile": "engine_trace report request",
        "system": "dicom_slices report request",
        "gpu": "contenders report request tracking",
        "competence": "suites",
        "cli": "competence footprint latency models precision profile report request revisions suites system tiling tracking",
        "__main__": "cli",
    },
}


def test_imports_of_every_kind_are_seen(tmp_path, monkeypatch) -> None:
    files = {
        "__init__": "from . import a",
        "a": "def f():\n    from .part import c",
        "b": "if TYPE_CHECKING:\n    import toy.a",
        "part/__init__": "",
        "part/c": "import_module('..b', __name__)\nfrom ..b import name",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setitem(PACKAGES, "toy", tmp_path)
    graph = structure.import_graph("toy")
    assert graph == {
        "toy": {"toy.a"}, "toy.a": {"toy.part.c"}, "toy.b": {"toy.a"}, "toy.part": set(), "toy.part.c": {"toy.b"},
    }  # fmt: skip
    assert structure.cycles(graph) == [["toy.a", "toy.b", "toy.part.c"]]
    assert structure.component_imports("toy") == {"": {"a"}, "a": {"part"}, "b": {"a"}, "part": {"b"}}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_in_a_circle(package: str) -> None:
    assert structure.cycles(structure.import_graph(package)) == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_component_imports_only_the_components_it_may(package: str) -> None:
    wrong = {
        component: imported - set(MAY_IMPORT[package].get(component, "").split())
        for component, imported in structure.component_imports(package).items()
        if component
    }
    assert {component: names for component, names in wrong.items() if names} == {}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_the_table_of_components_has_no_cycle(package: str) -> None:
    assert structure.cycles({component: set(names.split()) for component, names in MAY_IMPORT[package].items()}) == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_the_table_of_components_names_components_that_exist(package: str) -> None:
    components = set(structure.component_imports(package))
    named = {name for component, names in MAY_IMPORT[package].items() for name in (component, *names.split())}
    assert named <= components


def test_only_commands_import_the_command_line_of_the_runtime() -> None:
    assert structure.libraries_that_import_commands() == []


def test_folders_are_small_enough_to_survey() -> None:
    assert structure.full_folders() == []


def test_functions_fit_a_screen() -> None:
    assert structure.long_functions(structure.sources()) == []


def test_files_hold_one_subject() -> None:
    assert structure.long_files(structure.sources()) == []


def test_types_are_named() -> None:
    counts = {package: structure.count_any(package) for package in PACKAGES}
    assert counts["mimo_runtime"] < structure.ANY_IN_THE_RUNTIME
    assert sum(counts.values()) < structure.ANY_IN_ALL
