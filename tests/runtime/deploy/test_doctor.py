from __future__ import annotations

import pytest

from mimo_runtime import engines
from mimo_runtime.deploy import doctor
from mimo_runtime.deploy.doctor import examine, healthy, to_dict, verdict
from mimo_runtime.hardware.nvidia import Gpu, Gpus, Jetson


def by_name(checks):
    return {check.name: check for check in checks}


def test_a_healthy_machine():
    checks = by_name(examine())
    assert healthy(checks.values())
    for name in ("python", "platform", "cpu", "memory", "numpy", "tokenizers", "engine onnxruntime"):
        assert checks[name].state == "ok" and checks[name].detail
    assert "3." in checks["python"].detail
    assert "bundle" not in checks


def test_a_missing_engine_is_reported_with_the_extra_to_install(monkeypatch):
    real = doctor.version_of
    monkeypatch.setattr(engines, "installed_version", lambda name: None)
    monkeypatch.setattr(doctor, "version_of", lambda name: None if "onnxruntime" in name else real(name))
    checks = by_name(examine())
    assert checks["engine onnxruntime"].state == "missing"
    assert checks["engine onnxruntime"].remedy == "pip install 'mimo-edge[cpu]'"
    assert checks["engines"].state == "broken" and "no bundle can run" in checks["engines"].detail
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
    assert check.state == "ok" and openvino.__version__.startswith(check.detail)


def test_two_wheels_that_own_one_folder_are_a_conflict(monkeypatch):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.20" if "onnxruntime" in name else real(name))
    broken = [check for check in examine() if check.state == "broken"]
    assert len(broken) == 1 and "overwrite each other" in broken[0].detail and "pip uninstall" in broken[0].remedy


def test_a_missing_optional_package_is_not_an_illness(monkeypatch):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "pydicom" else real(name))
    checks = by_name(examine())
    assert checks["pydicom"].state == "missing" and "DICOM files cannot be read" in checks["pydicom"].detail
    assert checks["pydicom"].remedy == "pip install 'mimo-edge[dicom]'"
    assert healthy(checks.values())


def test_a_missing_required_package_is(monkeypatch):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "pillow" else real(name))
    assert by_name(examine())["pillow"].state == "broken"


def test_a_bundle_that_runs_here(bundle_folder):
    checks = by_name(examine(bundle_folder))
    assert healthy(checks.values())
    assert "fake for cpu" in checks["bundle"].detail and "6 graphs: onnxruntime" in checks["graphs"].detail
    assert checks["loads"].state == "ok"


def test_a_bundle_that_does_not(tmp_path):
    checks = examine(tmp_path / "none")
    assert checks[-1].name == "bundle" and checks[-1].state == "broken" and "does not exist" in checks[-1].detail
    assert to_dict(checks)["healthy"] is False


def test_a_bundle_whose_graph_does_not_load(bundle_folder, tmp_path):
    import shutil

    onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    (copy / "graphs/fusion.onnx").write_bytes(b"no graph")
    onnx_bundle.reseal(copy)
    checks = by_name(examine(copy))
    assert checks["bundle"].state == "broken" and "fusion.onnx" in checks["bundle"].detail


# -- GPUs and the verdict ------------------------------------------------------------------------------------------------

NOTHING = Gpus(problem="there is no NVIDIA GPU")
A2000 = Gpus((Gpu("NVIDIA RTX A2000", "8.6", 6144, "GPU-1"),), "550.54.14", "12.4")
ORIN = Gpus((Gpu("Orin (nvgpu)"),), "540.4.0", "12.6", Jetson("NVIDIA Jetson Orin Nano Developer Kit", "36.4.3", "6"))


@pytest.fixture
def having(monkeypatch):
    """Set which engines can be used, and why the others cannot; and which of NVIDIA's libraries are here."""

    def put(*usable, reasons=None, libraries=None, mode=None):
        reasons = reasons or {}
        installed = {*usable, *reasons}
        monkeypatch.setattr(doctor, "installed_version", lambda name: "1.2.3" if name in installed else None)
        missing = {name: ("not installed", kind.install) for name, kind in engines.KINDS.items() if name not in installed}
        monkeypatch.setattr(doctor, "obstacle", lambda name: {**missing, **reasons}.get(name))
        monkeypatch.setattr(doctor, "library_version", lambda which: (libraries or {}).get(which))
        monkeypatch.setattr(doctor, "power_mode", lambda: mode)

    return put


def test_without_a_gpu_its_engines_are_not_advertised(having):
    having("onnxruntime", "openvino", "tensorrt-rtx")
    checks = examine(gpus=NOTHING)
    named = by_name(checks)
    assert (named["gpu"].state, named["gpu"].detail, named["gpu"].remedy) == ("missing", "there is no NVIDIA GPU", "")
    assert named["gpu"].facts == {"driver": None, "gpus": []}
    assert named["engine onnxruntime-cuda"].detail == "not installed, and of no use without a GPU"
    assert named["engine onnxruntime-cuda"].remedy == named["engine tensorrt"].remedy == ""
    assert named["engine tensorrt-rtx"].detail == "1.2.3, of no use without a GPU"
    assert not {"gpu driver", "cuda runtime", "cudnn", "jetson", "power mode"} & set(named)
    assert healthy(checks)
    assert verdict(checks) == (
        "This machine can run cpu bundles with onnxruntime and openvino; "
        "no cuda, tensorrt or tensorrt-rtx bundles, because there is no NVIDIA GPU."
    )


def test_a_workstation_with_a_gpu(having):
    reasons = {"onnxruntime-cuda": ("installed, but the CUDA provider does not load: libcudnn.so.9", "pip install cuDNN")}
    having("onnxruntime", "tensorrt-rtx", reasons=reasons, libraries={"cuda runtime": "12.4"})
    checks = examine(gpus=A2000)
    named = by_name(checks)
    assert named["gpu"].detail == "NVIDIA RTX A2000, compute capability 8.6, 6144 MB"
    assert named["gpu"].facts["gpus"] == [
        {"name": "NVIDIA RTX A2000", "compute_capability": "8.6", "memory_mb": 6144, "uuid": "GPU-1"}
    ]
    assert named["gpu driver"].detail == "550.54.14, runs CUDA up to 12.4"
    assert (named["cuda runtime"].state, named["cuda runtime"].detail) == ("ok", "12.4")
    assert named["cudnn"].state == "missing" and named["cudnn"].remedy == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    assert named["engine onnxruntime-cuda"].detail.endswith("libcudnn.so.9")
    assert named["engine onnxruntime-cuda"].remedy == "pip install cuDNN"
    assert named["engine tensorrt"].remedy == "pip install 'mimo-edge[tensorrt]'"
    assert "power mode" not in named
    assert verdict(checks) == (
        "This machine can run cpu bundles with onnxruntime, tensorrt-rtx bundles with tensorrt-rtx; no cuda bundles, because "
        "onnxruntime-cuda is installed, but the CUDA provider does not load: libcudnn.so.9; no tensorrt bundles, because "
        "tensorrt is not installed."
    )


def test_a_jetson_tells_jetpack_and_power_mode(having):
    having("onnxruntime", "tensorrt", libraries={"cuda runtime": "12.6", "cudnn": "9.3.0"}, mode="MAXN_SUPER")
    named = by_name(examine(gpus=ORIN))
    assert named["jetson"].detail == "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6, L4T 36.4.3"
    assert named["jetson"].facts["l4t"] == "36.4.3"
    assert (named["power mode"].state, named["power mode"].detail) == ("ok", "MAXN_SUPER")
    assert "tensorrt bundles with tensorrt;" in verdict(list(named.values()))
    having("tensorrt", mode=None)
    checks = examine(gpus=ORIN)
    named = by_name(checks)
    assert (named["power mode"].state, named["power mode"].remedy) == ("missing", "sudo nvpmodel -q")
    assert named["cudnn"].remedy == ""  # JetPack's, not pip's
    # No engine for the CPU, but one for the GPU: that is enough.
    assert healthy(checks) and verdict(checks).startswith("This machine can run tensorrt bundles with tensorrt; no cpu bundles")


def test_a_gpu_engine_alone_is_no_engine_without_a_gpu(having):
    having("tensorrt-rtx")
    checks = examine(gpus=NOTHING)
    assert by_name(checks)["engines"].state == "broken" and not healthy(checks)
    assert verdict(checks).startswith(
        "This machine can run no bundle; no cpu bundles, because onnxruntime is not installed and"
    )


def test_the_verdict_about_a_missing_package(having, monkeypatch):
    having("onnxruntime")
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name in ("pillow", "click") else real(name))
    assert verdict(examine(gpus=NOTHING)) == "This machine can run no bundle: pillow and click are missing."


def test_two_wheels_in_one_folder_are_no_engine(having, monkeypatch):
    having("onnxruntime")
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: "1.20" if name.startswith("onnxruntime") else real(name))
    message = verdict(examine(gpus=NOTHING))
    assert "no cpu bundles, because onnxruntime is onnxruntime and onnxruntime-gpu are both installed" not in message
    assert "no cpu bundles, because onnxruntime and onnxruntime-gpu are both installed and overwrite each other" in message


def test_the_verdict_about_a_bundle(bundle_folder, tmp_path):
    checks = examine(bundle_folder, gpus=NOTHING)
    assert verdict(checks).endswith(" The given bundle runs here.")
    assert "cpu: the bundle was built for it" in by_name(checks)["loads"].detail
    assert verdict(examine(tmp_path / "none")).endswith(
        f"The given bundle does not run here: bundle {tmp_path}/none does not exist."
    )


def test_everything_is_in_the_json(having):
    import json

    having("onnxruntime", libraries={"cudnn": "9.3.0"}, mode="15W")
    data = json.loads(json.dumps(to_dict(examine(gpus=ORIN))))
    assert data["verdict"].startswith("This machine can run cpu bundles with onnxruntime; ")
    named = {check["name"]: check for check in data["checks"]}
    assert {"gpu", "gpu driver", "cuda runtime", "cudnn", "jetson", "power mode", "disk", "memory"} <= set(named)
    assert {f"engine {name}" for name in engines.KINDS} <= set(named)
    assert named["gpu"]["facts"]["cuda"] == "12.6" and named["power mode"]["found"] == "15W"


def test_the_free_space_of_the_disk_is_reported():
    disk = by_name(examine(gpus=NOTHING))["disk"]
    assert disk.facts and all(megabytes > 0 for megabytes in disk.facts.values())
    assert all(f"MB free in {folder}" in disk.detail for folder in disk.facts)


def test_the_report_ends_with_the_verdict():
    from click.testing import CliRunner

    from mimo_runtime.cli.commands import main

    lines = CliRunner().invoke(main, ["doctor"]).stdout.splitlines()
    assert lines[-1].startswith("This machine can run cpu bundles with ")
    assert any(line.split()[1:2] == ["gpu"] for line in lines)


def test_a_numeric_fault_of_a_graph_is_reported_as_one(bundle_folder, tmp_path):
    """By ``doctor``, which names the graph, and by ``verify``, which must not call it a difference."""
    from click.testing import CliRunner
    from numeric_faults import with_fault

    from mimo_runtime.cli.commands import main

    pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
    for graph, value in (("fusion", "nan"), ("mask_decoder", "inf"), ("text_decoder", "nan")):
        faulty = with_fault(bundle_folder, tmp_path / graph, graph, float(value))
        checks = by_name(examine(faulty))
        assert checks["loads"].state == "ok" and checks["runs"].state == "broken"
        assert checks["runs"].detail.startswith(f"graph {graph} gave {'NaN' if value == 'nan' else 'infinity'} in its output ")
        assert verdict(list(checks.values())).endswith(f" The given bundle does not run here: {checks['runs'].detail}.")
        for command in ("doctor", "verify"):
            result = CliRunner().invoke(main, [command, str(faulty)])
            assert result.exit_code == 1 and f"graph {graph} gave" in result.stderr and result.stderr.count("\n") == 1


def test_a_machine_without_folders_is_examined(monkeypatch):
    def refuse(*_args, **_options):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(doctor.os, "getcwd", refuse)
    monkeypatch.setattr(doctor.tempfile, "gettempdir", refuse)
    monkeypatch.delenv("HOME", raising=False)
    checks = by_name(examine())
    assert (checks["disk"].detail, checks["disk"].state) == ("unknown on this system", "ok")
    assert (checks["temporary files"].state, checks["temporary files"].remedy) == ("missing", "Set TMPDIR to one that can")
    assert healthy(checks.values())


def test_a_bundle_that_may_not_be_read(monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied", "secret")

    monkeypatch.setattr(doctor.Bundle, "open", refuse)
    check = examine("locked/bundle")[-1]
    assert (check.name, check.state) == ("bundle", "broken")
    assert check.detail == "bundle locked/bundle cannot be read: Permission denied" and "permissions" in check.remedy


def test_a_path_that_does_not_exist_is_a_wrong_request(tmp_path):
    from click.testing import CliRunner

    from mimo_runtime.cli.commands import main

    result = CliRunner().invoke(main, ["doctor", str(tmp_path / "none")])
    assert result.exit_code == 2 and result.stdout == "" and "none does not exist" in result.stderr
