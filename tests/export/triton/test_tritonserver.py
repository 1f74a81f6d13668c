"""A real Triton server answers what the runtime answers.

``make test-all`` installs the server into ``build/triton``. Without it, e.g. off Linux on x86-64, these tests skip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import fakes
import numpy as np
import pytest
import served
from ports import free_port
from waiting import PATIENCE_S

from mimo_export.triton.config import ServingOptions
from mimo_export.triton.repository import write_repository
from mimo_runtime.pipeline import Mimo

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[3]
TRITON = Path(os.environ.get("MIMO_TESTS_TRITON") or REPOSITORY / "build" / "triton")
SERVER = TRITON / "pytriton" / "tritonserver"
STUB = SERVER / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}" / "triton_python_backend_stub"
QUESTIONS = (
    {"text": "polyp", "boxes": [[20, 10, 70, 40]]}, {"text": "What do you see?"}, {"points": [[50, 30]], "contours": True},
)  # fmt: skip


def environment() -> dict[str, str]:
    libraries = [str(TRITON / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "OMP_NUM_THREADS": "1"}


def why_not() -> str:
    if not STUB.is_file():
        return f"no Triton server for this Python in {TRITON}"
    linked = subprocess.run(["ldd", STUB], env=environment(), capture_output=True, text=True).stdout
    return "the library of this Python is not shared" if "not found" in linked else ""


def make_environment(folder: Path) -> Path:
    """A virtual environment with the numpy of the server before that of the tests."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    places = [TRITON, REPOSITORY / "runtime", *(path for path in sys.path if path.endswith("site-packages"))]
    (packages / "places.pth").write_text("".join(f"{place}\n" for place in places))
    return folder


def make_backends(folder: Path) -> Path:
    """The Python backend with its stub beside it."""
    shutil.copytree(SERVER / "backends", folder)
    shutil.copy2(STUB, folder / "python")
    (folder / "python" / STUB.name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def port(micro_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a server that is ready."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("triton")
    # The server waits 0.2 s for a batch, so that requests of one moment come together.
    options = ServingOptions(queue_delay_us=200_000, threads=1, python_env=str(make_environment(folder / "env")))
    write_repository(micro_bundle, folder / "repo", options)
    number = free_port()
    binary = SERVER / "bin" / "tritonserver"
    binary.chmod(0o755)
    command = [binary, f"--model-repository={folder / 'repo'}", f"--backend-directory={make_backends(folder / 'backends')}",
               f"--http-port={number}", "--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false",
               "--exit-timeout-secs=1"]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
        try:
            wait_ready(process, number, folder / "log")
            yield number
        finally:
            process.terminate()
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_ready(process: subprocess.Popen[bytes], number: int, log: Path) -> None:
    end = time.monotonic() + 2 * PATIENCE_S
    while process.poll() is None and time.monotonic() < end:
        try:
            if client(number).is_server_ready():
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(log.read_text("utf-8", "replace")[-3000:])


def client(number: int):
    if str(TRITON) not in sys.path:
        sys.path.append(str(TRITON))  # behind the packages of the tests
    import tritonclient.http

    return tritonclient.http.InferenceServerClient(f"127.0.0.1:{number}", network_timeout=120)


def ask(number: int, images: list[bytes], questions: list[dict]) -> list[dict]:
    """Answers of one request of Triton, without what differs between two equal questions."""
    connection = client(number)
    import tritonclient.http

    inputs = []
    for name, values in (("image", images), ("request", [json.dumps(question).encode() for question in questions])):
        inputs.append(tritonclient.http.InferInput(name, [len(values), 1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array(values, object).reshape(-1, 1))
    rows = connection.infer("mimo", inputs).as_numpy("answer").reshape(-1)
    return [comparable(json.loads(row)) for row in rows]


def comparable(answer: dict) -> dict:
    return {name: value for name, value in answer.items() if name not in ("timings_ms", "request", "model", "image", "objects")}


def expected(mimo: Mimo, image: bytes, question: dict) -> dict:
    from mimo_runtime.services.http.answers import finding_json

    answer = mimo.open(image).ask(
        question.get("text", ""), boxes=question.get("boxes", ()), points=question.get("points", ())
    )  # fmt: skip
    contours = bool(question.get("contours"))
    findings = [finding_json(finding, "rle", contours) for finding in answer.findings]
    row: dict = json.loads(json.dumps({**answer.to_dict(), "findings": findings}))
    return comparable(row)


@pytest.fixture(scope="module")
def mimo(micro_bundle: Path) -> Iterator[Mimo]:
    with Mimo.load(micro_bundle, threads=1) as loaded:
        yield loaded


def test_answers_equal_those_of_the_runtime_to_the_bit(port: int, mimo: Mimo) -> None:
    images = [served.png(fakes.picture(value=value)) for value in (120, 200, 250)]
    for question in QUESTIONS:
        for image in images:
            (answer,) = ask(port, [image], [question])
            assert answer == expected(mimo, image, question)
            assert answer["findings"] or answer["text"]


def test_a_batch_of_one_request_has_an_answer_for_each_image(port: int, mimo: Mimo) -> None:
    images = [served.png(fakes.picture(value=value)) for value in (90, 180)]
    answers = ask(port, images, list(QUESTIONS[:2]))
    assert answers == [expected(mimo, image, question) for image, question in zip(images, QUESTIONS)]


def test_requests_of_one_moment_are_put_together(port: int, mimo: Mimo) -> None:
    images = [served.png(fakes.picture(value=value)) for value in range(100, 106)]
    before = client(port).get_inference_statistics("mimo")["model_stats"][0]
    answers: list[dict] = [{}] * len(images)
    together = threading.Barrier(len(images))

    def one(place: int) -> None:
        together.wait(PATIENCE_S)
        (answers[place],) = ask(port, [images[place]], [QUESTIONS[0]])

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected(mimo, image, QUESTIONS[0]) for image in images]
    after = client(port).get_inference_statistics("mimo")["model_stats"][0]
    inferences, executions = (int(after[name]) - int(before[name]) for name in ("inference_count", "execution_count"))
    assert inferences == len(images) and executions < inferences


@pytest.mark.parametrize(
    "image, question, message",
    [
        (b"SECRET^NAME", {"text": "polyp"}, "the image"),
        (None, {"colour": "red"}, "colour"),
        (None, {"boxes": [[0, 0, 9000, 9000]], "image": "x"}, "stored image"),
    ],
    ids=["image", "field", "id"],
)
def test_a_wrong_request_gets_one_sentence(port: int, image: bytes | None, question: dict, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:  # of the client
        ask(port, [image or served.png()], [question])
    assert type(caught.value).__name__ == "InferenceServerException"
    assert "SECRET" not in str(caught.value) and "Traceback" not in str(caught.value)
