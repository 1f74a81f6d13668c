from __future__ import annotations

import pytest

from mimo_runtime import doctor, engines
from mimo_runtime.doctor import examine, healthy, to_dict


def by_name(checks):
    return {check.name: check for check in checks}


def test_a_healthy_machine():
    checks = by_name(examine())
    assert healthy(checks.values())
    for name in ("python", "platform", "cpu", "memory", "numpy", "tokenizers", "engine onnxruntime"):
        assert checks[name].state == "ok" and checks[name].found
    assert "3." in checks["python"].found
    assert "bundle" not in checks


def test_a_missing_engine_is_told_with_the_extra_to_install(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(engines, "installed_version", lambda name: None)
    monkeypatch.setattr(doctor, "_version", lambda name: None if "onnxruntime" in name else real(name))
    checks = by_name(examine())
    assert checks["engine onnxruntime"].state == "missing"
    assert checks["engine onnxruntime"].remedy == "pip install 'mimo-edge[cpu]'"
    assert checks["engines"].state == "broken" and "no bundle can run" in checks["engines"].found
    assert not healthy(checks.values())


def test_openvino_is_listed_and_may_be_missing(monkeypatch):
    real = engines.installed_version
    monkeypatch.setattr(engines, "installed_version", lambda name: None if name == "openvino" else real(name))
    checks = by_name(examine())
    check = checks["engine openvino"]
    assert (check.state, check.remedy) == ("missing", "pip install 'mimo-edge[openvino]'")
    assert healthy(checks.values())


def test_an_installed_openvino_is_found():
    openvino = pytest.importorskip("openvino")
    check = by_name(examine())["engine openvino"]
    assert check.state == "ok" and openvino.__version__.startswith(check.found)


def test_two_wheels_that_own_one_folder_are_a_conflict(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "1.20" if "onnxruntime" in name else real(name))
    broken = [check for check in examine() if check.state == "broken"]
    assert len(broken) == 1 and "overwrite each other" in broken[0].found and "pip uninstall" in broken[0].remedy


def test_a_missing_optional_package_is_not_an_illness(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pydicom" else real(name))
    checks = by_name(examine())
    assert checks["pydicom"].state == "missing" and "DICOM files cannot be read" in checks["pydicom"].found
    assert checks["pydicom"].remedy == "pip install 'mimo-edge[dicom]'"
    assert healthy(checks.values())


def test_a_missing_required_package_is(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pillow" else real(name))
    assert by_name(examine())["pillow"].state == "broken"


def test_a_bundle_that_runs_here(bundle_folder):
    checks = by_name(examine(bundle_folder))
    assert healthy(checks.values())
    assert "fake for cpu" in checks["bundle"].found and "6 graphs: onnxruntime" in checks["graphs"].found
    assert checks["loads"].state == "ok"


def test_a_bundle_that_does_not(tmp_path):
    checks = examine(tmp_path / "none")
    assert checks[-1].name == "bundle" and checks[-1].state == "broken" and "does not exist" in checks[-1].found
    assert to_dict(checks)["healthy"] is False


def test_a_bundle_whose_graph_does_not_load(bundle_folder, tmp_path):
    import shutil

    onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    (copy / "graphs/fusion.onnx").write_bytes(b"no graph")
    onnx_bundle.reseal(copy)
    checks = by_name(examine(copy))
    assert checks["bundle"].state == "ok" and checks["loads"].state == "broken" and "fusion" in checks["loads"].found
