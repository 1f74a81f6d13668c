"""No command of any program writes into HOME, leaves temporary files, or reaches for the network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydicom")
pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
from dicom_series import write_ct_series

#: ``sitecustomize`` of every Python process of a command: it ends where a socket is connected, bound or a name is looked up.
#: Sockets between processes of this machine (AF_UNIX, and pairs) are no network. Nor is the socket on ::1 with which urllib3
#: asks at its import for IPv6. A service may use the loopback.
WATCH = """
import os, socket, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        own, address = arguments[0].family == socket.AF_UNIX, arguments[1]
        own = own or event == "socket.bind" and address == ("::1", 0)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        own, address = False, arguments
    else:
        return
    if "ALLOW_LOOPBACK" in os.environ:
        # pynetdicom binds the socket of a caller to a free port of any address before it connects.
        own = own or address[0] in ("127.0.0.1", None) or event == "socket.bind" and address == ("0.0.0.0", 0)
    if not own:
        os.write(2, f"SOCKET {event} {address}\\n".encode())
        os._exit(99)

sys.addaudithook(watch)
"""
PROGRAM = "import importlib, sys; importlib.import_module(sys.argv[1]).main(sys.argv[2:])"
RUN, EXPORT, CALIBRATE = "mimo_runtime.cli.commands", "mimo_export.cli", "mimo_calibration.cli"
TRAIN, BENCH = "mimo_train.cli.main", "mimo_benchmarks.cli.main"
#: Commands on a bundle of hand-made graphs, a data set of phantoms and sources of data sets.
QUICK = [
    (RUN, "predict BUNDLE IMAGE --text polyp -o out"),
    (RUN, "series BUNDLE STACK --text polyp -o out --write nifti,coco"),
    (RUN, "track BUNDLE STACK --text polyp -o out"),
    (RUN, "batch BUNDLE IMAGE --text polyp -o out"),
    (RUN, "mercure BUNDLE --in SCAN --out TARGET --ask polyp"),
    (RUN, "compare STUDY STUDY -o follow-up"),
    (RUN, "verify BUNDLE"),
    (RUN, "doctor BUNDLE"),
    (RUN, "prepare BUNDLE -o prepared"),
    (EXPORT, "inspect BUNDLE --json"),
    (EXPORT, "sign OWN_BUNDLE --key KEY"),
    (EXPORT, "triton BUNDLE -o repository"),
    (EXPORT, "web BUNDLE --onnxruntime-web ONNXRUNTIME --dicom-parser PARSER -o site"),
    (CALIBRATE, "names"),
    (CALIBRATE, "run --help"),
    (TRAIN, "data phantom --count 4 --size 64 -o set"),
    (TRAIN, "data import coco COCO --modality ct --region abdomen -o imported"),
    (TRAIN, "data import nnunet NNUNET --modality ct --region abdomen -o imported"),
    (TRAIN, "data import folders FOLDERS --classes 1=polyp --modality endoscopy --region colon -o imported"),
    (TRAIN, "data import instruct INSTRUCT --modality endoscopy --region colon -o imported"),
    (BENCH, "footprint BUNDLE --image IMAGE --text polyp --repeats 1"),
    (BENCH, "accuracy BUNDLE --data SET --report report --json numbers.json --limit 1"),
    (BENCH, "robustness BUNDLE --data SET --report pictures --limit 1"),
    (BENCH, "relations BUNDLE --data SET --limit 1"),
    (BENCH, "referring BUNDLE --data SET --limit 1"),
    (BENCH, "track BUNDLE --data SET --limit 1 --frames 2"),
    (BENCH, "competence BUNDLE --data SET --limit 1 --per-kind 1"),
    (BENCH, "tiles BUNDLE --data SLICES --limit 1"),
    (BENCH, "volumes BUNDLE --data SLICES --limit 1"),
    (BENCH, "profile BUNDLE --image IMAGE --text polyp --repeats 1 --report profile"),
    (BENCH, "cold-start BUNDLE --image IMAGE --text polyp --repeats 1"),
    (BENCH, "memory BUNDLE --image IMAGE --text polyp --count 40"),
    (BENCH, "throughput BUNDLE --image IMAGE --text polyp --callers 1,2 --asks 2 --blocks 1"),
    (BENCH, "energy BUNDLE --image IMAGE --text polyp --seconds 0.05 --idle-seconds 0.05"),
    (BENCH, "report RESULTS -o pages"),
]
#: Commands on the smallest model.
SLOW = [
    (TRAIN, "fit --preset micro --steps 2 --batch 2 --data SET -o trained"),
    (TRAIN, "ablate --preset micro --steps 1 --batch 2 --prompts 1 --variant full --data SET --limit 1 -o ablation"),
    (TRAIN, "evaluate CHECKPOINT --data SET --limit 1 --no-text --report report"),
    (TRAIN, "average CHECKPOINT CHECKPOINT -o averaged"),
    (TRAIN, "tune-thresholds OWN_CHECKPOINT --data SET --limit 1"),
    (TRAIN, "calibrate-contours OWN_CHECKPOINT --data SET --split train"),
    (TRAIN, "fit-domain OWN_CHECKPOINT --data SET"),
    (EXPORT, "build CHECKPOINT -o built --parity-samples 2"),
    (EXPORT, "parity CHECKPOINT MICRO --samples 2"),
    (
        CALIBRATE,
        "run MICRO --calibration CALIBRATION --calibration-images 16 --gate-images 8 --precision fp16 --force -o calibrated",
    ),
    (BENCH, "latency MICRO --checkpoint CHECKPOINT --repeats 1 --warmup 0 --max-tokens 3"),
    (BENCH, "precision MICRO MICRO --data SET --limit 1"),
    (BENCH, "compare-revisions HEAD MICRO --data SET --limit 1 --repeats 1"),
]
#: Commands that may end with another code than 0 here, and why.
CODES = {
    "prepare BUNDLE -o prepared": {2},  # the bundle needs no compiler
    "energy BUNDLE --image IMAGE --text polyp --seconds 0.05 --idle-seconds 0.05": {0, 1},  # 1 without a sensor
}
#: Commands that listen until they are stopped, and the start of the line that names their port.
SERVICES = {
    "serve BUNDLE --port 0": "listening on ",
    "node BUNDLE --data data --return-to RECEIVER@127.0.0.1:104 --ask polyp --port 0 --min-free 0": "listening as ",
}


def empty_places(tmp_path: Path, **settings: str) -> dict[str, str]:
    """An environment in which HOME and the folder for temporary files are empty, and :data:`WATCH` runs."""
    hook = tmp_path / "hook"
    for folder in (tmp_path / "home", tmp_path / "temporary", hook):
        folder.mkdir()
    (hook / "sitecustomize.py").write_text(WATCH)
    removed = {name for name in os.environ if name.startswith(("XDG_", "ORT_", "HF_", "MPL", "TORCH"))}
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary"), **settings}
    environment["PYTHONPATH"] = os.pathsep.join([str(hook), *filter(None, [os.environ.get("PYTHONPATH")])])
    return environment


def files_in(tmp_path: Path) -> list[Path]:
    """What a command left in HOME and in the folder for temporary files."""
    return [*(tmp_path / "home").rglob("*"), *(tmp_path / "temporary").iterdir()]


def arguments(module: str, command: str, places: dict[str, object]) -> list[str]:
    return [sys.executable, "-c", PROGRAM, module, *(str(places.get(word, word)) for word in command.split())]


def check(tmp_path: Path, module: str, command: str, places: dict[str, object], codes: Collection[int] = (0,)) -> None:
    """Run a command that ends by itself."""
    pytest.importorskip(module)
    done = subprocess.run(
        arguments(module, command, places),
        env=empty_places(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode in codes and "SOCKET" not in done.stderr, done.stderr
    assert files_in(tmp_path) == []


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mimo_train.data.phantom import generate

    return generate(tmp_path_factory.mktemp("phantoms") / "set", 36, size=64)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What is imported and signed: a picture with one mask, as each kind of source."""
    root = tmp_path_factory.mktemp("sources")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 10:30] = 1
    for name, image in (("images", picture), ("masks", Image.fromarray(mask))):
        (root / "folders" / name).mkdir(parents=True)
        image.save(root / "folders" / name / "a.png")
        image.save(root / f"{name}.png")
    for folder, image in (("imagesTr", picture), ("labelsTr", Image.fromarray(mask))):
        (root / "nnunet" / folder).mkdir(parents=True)
        image.save(root / "nnunet" / folder / ("a_0000.png" if folder == "imagesTr" else "a.png"))
    channels = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 1, "file_ending": ".png"}
    (root / "nnunet/dataset.json").write_text(json.dumps(channels))
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[10, 10, 30, 10, 30, 20]], "iscrowd": 0}
    coco = {
        "images": [{"id": 1, "file_name": "images.png", "width": 50, "height": 40}],
        "categories": [{"id": 1, "name": "liver"}], "annotations": [annotation],
    }  # fmt: skip
    (root / "coco.json").write_text(json.dumps(coco))
    record = {"image": "images.png", "question": "Segment the polyp.", "answer": "<p>polyp</p><seg>", "mask": "masks.png"}
    (root / "instruct.json").write_text(json.dumps([record]))
    picture.save(root / "stack.tiff", save_all=True, append_images=[picture])
    write_ct_series(root / "scan", slices=3)
    write_slices(root / "slices", picture, root / "masks.png")
    for folder in ("results", "target"):
        (root / folder).mkdir()
    write_result(root / "results/cold.json")
    write_libraries(root / "libraries")
    return {
        "STACK": root / "stack.tiff", "STUDY": study(root / "study"), "COCO": root / "coco.json", "NNUNET": root / "nnunet",
        "FOLDERS": root / "folders", "INSTRUCT": root / "instruct.json", "SCAN": root / "scan", "SLICES": root / "slices",
        "RESULTS": root / "results", "ONNXRUNTIME": root / "libraries/onnxruntime-web",
        "PARSER": root / "libraries/dicom-parser",
        "TARGET": root / "target",
    }  # fmt: skip


def write_slices(folder: Path, picture: Image.Image, mask: Path) -> None:
    """A data set of one case of five slices."""
    folder.mkdir()
    record = {
        "mask": "mask.png",
        "case": "a",
        "split": "test",
        "modality": "ct",
        "region": "abdomen",
        "classes": {"1": "liver"},
    }
    shutil.copyfile(mask, folder / "mask.png")
    for number in range(5):
        picture.save(folder / f"a_{number}.png")
    lines = (json.dumps({"image": f"a_{number}.png", "classes": {"1": "liver"}, **record}) for number in range(5))
    (folder / "dataset.jsonl").write_text("\n".join(lines))


def write_libraries(folder: Path) -> None:
    """Unpacked npm packages without contents."""
    from mimo_export.web.library import LIBRARIES

    for library in LIBRARIES:
        (folder / library.name / "dist").mkdir(parents=True)
        (folder / library.name / "package.json").write_text(json.dumps({"version": library.version}))
        for name in library.files:
            (folder / library.name / name).write_text(name)


def write_result(file: Path) -> None:
    """What ``mimo-bench cold-start --json`` writes."""
    from mimo_benchmarks.report import machine
    from mimo_benchmarks.report.result import BenchmarkResult, Figure

    described = machine.describe()
    machine.finish(described, 0.0)
    stages = {"stages_s": {"interpreter": 0.1, "import": 0.2, "load": 0.3, "encode": 0.1, "mask": 0.1}, "total_s": 0.8}
    result = BenchmarkResult("cold-start", "tiny", {**described, "throttled": None}, [Figure("first mask", 0.8, "s")], stages)
    file.write_text(json.dumps(result.to_dict()))


def study(folder: Path) -> Path:
    """A stored result, as ``series --write`` leaves it."""
    from mimo_runtime.clinical.store import save_study
    from mimo_runtime.clinical.study import ModelIdentity, Structure, StudyResult
    from mimo_runtime.imageio.image import ScanImage

    folder.mkdir()
    mask = np.zeros((40, 50), bool)
    mask[10:20, 10:30] = True
    image = ScanImage(np.zeros((40, 50, 3), np.uint8))
    structure = Structure("polyp", {0: mask}, 0.9, tracking_id="polyp")
    save_study(StudyResult((image,), (structure,), (), (), ModelIdentity("m", "1", "")), folder)
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path = tmp_path / "key.pem"
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.mark.parametrize(("module", "command"), QUICK)
def test_a_command_leaves_home_and_network_alone(
    module, command, bundle_folder, image_file, data_set, sources, tmp_path, request
):
    places = {"BUNDLE": bundle_folder, "IMAGE": image_file, "SET": data_set, **sources}
    if "OWN_BUNDLE" in command:
        pytest.importorskip("cryptography")
        places |= {"OWN_BUNDLE": shutil.copytree(bundle_folder, tmp_path / "own"), "KEY": request.getfixturevalue("key")}
    check(tmp_path, module, command, places, CODES.get(command, {0}))


@pytest.mark.parametrize("command", SERVICES)
def test_a_service_leaves_home_and_other_machines_alone(command: str, bundle_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn" if command.startswith("serve") else "pynetdicom")
    process = subprocess.Popen(
        arguments(RUN, command, {"BUNDLE": bundle_folder}), env=empty_places(tmp_path, ALLOW_LOOPBACK="1"), cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=300)
    finally:
        process.kill()
    assert line.startswith(SERVICES[command]), line + log
    assert process.returncode == 0 and "SOCKET" not in log, log
    assert files_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(("module", "command"), SLOW)
def test_training_and_export_leave_home_and_network_alone(
    module, command, micro_checkpoint, micro_bundle, data_set, tmp_path, repository
):
    from small_sets import write_phantoms

    places = {"CHECKPOINT": micro_checkpoint, "MICRO": micro_bundle, "SET": data_set}
    if "OWN_CHECKPOINT" in command:
        places["OWN_CHECKPOINT"] = shutil.copytree(micro_checkpoint, tmp_path / "own")
    if "CALIBRATION" in command:
        places["CALIBRATION"] = write_phantoms(tmp_path / "calibration")
    if "HEAD" in command and not (repository / ".git").exists():
        pytest.skip("no repository")
    check(tmp_path, module, command, places)


def test_every_command_of_every_program_is_tried():
    """But for those that only group others."""
    import importlib

    import click

    tried = {(module, " ".join(command.split()[:depth])) for module, command in [*QUICK, *SLOW] for depth in (1, 2, 3)}
    tried |= {(RUN, command.split()[0]) for command in SERVICES}
    missing = []
    for module in (RUN, EXPORT, CALIBRATE, TRAIN, BENCH):
        stack = [("", importlib.import_module(module).main)]
        while stack:
            name, command = stack.pop()
            if isinstance(command, click.Group):
                stack += [(f"{name} {inner}".strip(), part) for inner, part in command.commands.items()]
            elif (module, name) not in tried and not command.hidden:
                missing.append((module, name))
    assert missing == []
