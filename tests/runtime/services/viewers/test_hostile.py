"""Hostile requests over the protocols of viewers: each is answered or refused with a sentence, and nothing stays on disk."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("blosc2")
nibabel = pytest.importorskip("nibabel")
hypothesis = pytest.importorskip("hypothesis")
import dicom_series  # noqa: E402
import served  # noqa: E402
import served_process  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from mimo_runtime.services.monai_label.routes import MONAI_LABEL  # noqa: E402
from mimo_runtime.services.nninteractive.routes import adapter  # noqa: E402
from mimo_runtime.services.nninteractive.wire import pack  # noqa: E402
from mimo_runtime.services.settings import ServerSettings  # noqa: E402

FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = (
    "bbox_coords", "include_interaction", "run_prediction", "coordinates", "shape", "dtype", "do_autozoom", "foreground",
    "background", "roi", "slice", "label", "result_extension", "image_properties", "spacing", "interaction_bbox", "other",
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=10,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5)
ARRAY = "application/octet-stream"
PROGRAM = """
    import logging, sys, warnings
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    warnings.simplefilter("always")
    import pydicom
    pydicom.config.debug(True)
    from mimo_runtime.cli.commands import main
    main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def client():
    with served.client(ServerSettings(max_callers=2), adapters=[MONAI_LABEL, adapter()]) as ready:
        token = ready.post("/claim").json()["lease_token"]
        ready.headers["X-Lease-Token"] = token
        image = pack(np.zeros((1, 3, 16, 16), np.int16))
        assert ready.post("/set_image", content=image, headers={"Content-Type": ARRAY}).status_code == 200
        yield ready


def is_answer_or_refusal(reply) -> bool:
    return reply.status_code == 200 or 400 <= reply.status_code < 500 and reply.json()["detail"].endswith(".")


@FEW
@given(body=BODIES, path=st.sampled_from(["add_bbox_interaction", "add_point_interaction", "set_target_buffer", "predict"]))
def test_any_json_of_an_interaction_is_answered_or_refused(client, body: dict, path: str):
    filled = {"bbox_coords": [[1, 2], [3, 9], [3, 9]], "include_interaction": True, "coordinates": [1, 5, 5]}
    for content in (body, {name: {**filled, **body}[name] for name in (*body, *filled) if name in {**filled, **body}}):
        reply = client.post(f"/{path}", content=json.dumps(content), headers={"Content-Type": "application/json"})
        assert is_answer_or_refusal(reply), reply.text


@FEW
@given(meta=BODIES | VALUES, noise=st.binary(max_size=20), at=st.integers(0, 400), path=st.sampled_from(
    ["set_image", "add_scribble_interaction", "add_lasso_interaction", "add_initial_seg_interaction"]
))  # fmt: skip
def test_any_array_and_header_is_answered_or_refused(client, meta, noise: bytes, at: int, path: str):
    shape = (1, 3, 16, 16) if path == "set_image" else (3, 16, 16)
    data = bytearray(pack(np.ones(shape, np.uint8)))
    data[at % len(data) : at % len(data) + len(noise)] = noise
    headers = {"Content-Type": ARRAY, "X-Meta": json.dumps(meta)}
    for header in (headers, {**headers, "X-Meta": json.dumps({"include_interaction": True})}):
        assert is_answer_or_refusal(client.post(f"/{path}", content=bytes(data), headers=header))
    restored = client.post("/set_image", content=pack(np.zeros((1, 3, 16, 16), np.int16)), headers={"Content-Type": ARRAY})
    assert restored.status_code == 200


@FEW
@given(params=BODIES | VALUES, noise=st.binary(max_size=30), at=st.integers(0, 2000))
def test_any_parameters_and_file_of_a_model_are_answered_or_refused(client, params, noise: bytes, at: int):
    values = np.zeros((16, 16, 3), np.int16)
    data = bytearray(nibabel.Nifti1Image(values, np.eye(4)).to_bytes())
    data[at % len(data) : at % len(data) + len(noise)] = noise
    for content, file in (
        (json.dumps(params), bytes(data)),
        ('{"foreground": [[5, 5, 1]]}', bytes(data)),
        (json.dumps(params), b"x"),
    ):
        parts = [("params", (None, content)), ("file", ("a.nii", file, ARRAY))]
        assert is_answer_or_refusal(client.post("/infer/points", files=parts))


def archive_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def test_archives_write_nothing_outside_and_bombs_are_refused(client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    paths = dicom_series.write_ct_series(tmp_path / "ct", slices=2)
    slices = {f"../../../evil{k}.dcm": path.read_bytes() for k, path in enumerate(paths)}
    before = sorted(tmp_path.rglob("*"))
    volume = gzip.compress(b"\0" * (24 << 20))
    huge = nibabel.Nifti1Header()
    huge.set_data_shape((30000, 30000, 30000))
    files = {
        "traversal": archive_of(slices), "absolute": archive_of({"/tmp/evil.dcm": paths[0].read_bytes()}),
        "bomb": archive_of({"a.dcm": b"\0" * (96 << 20)}), "gzip": volume,
        "header": gzip.compress(huge.binaryblock + b"\0" * 4),
        "nested": archive_of({"a.zip": archive_of({"b.zip": b"x"})}), "empty": archive_of({}),
    }  # fmt: skip
    for name, data in files.items():
        parts = [("params", (None, '{"foreground": [[20, 20, 0]]}')), ("file", ("../../x.zip", data, ARRAY))]
        reply = client.post("/infer/points", files=parts)
        assert is_answer_or_refusal(reply), (name, reply.text)
        assert reply.status_code != 200 or name in ("traversal", "absolute")
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(Path(client.service.scratch).iterdir())


def test_no_log_names_the_patient_and_no_file_stays(bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = dicom_series.write_ct_series(tmp_path / "study", slices=2)
    places = {name: tmp_path / name for name in ("home", "tmp", "cwd")}
    for place in places.values():
        place.mkdir()
    start = served_process.subprocess.Popen

    def at_debug(command, **options):
        return start([sys.executable, "-c", textwrap.dedent(PROGRAM), *command[3:]], **options)

    monkeypatch.setattr(served_process.subprocess, "Popen", at_debug)
    environment = {**os.environ, "HOME": str(places["home"]), "TMPDIR": str(places["tmp"])}
    server = served_process.Process(bundle_folder, "--log-level", "debug", cwd=places["cwd"], environment=environment)
    try:
        server.wait_ready()
        limit, kind = b"--limit\r\n", "multipart/form-data; boundary=limit"
        good, damaged = (
            archive_of({f"SECRET^NAME{k}": path.read_bytes()[:end] for k, path in enumerate(paths)}) for end in (None, 900)
        )
        for data in (good, damaged):
            head = b'Content-Disposition: form-data; name="file"; filename="SECRET^NAME.zip"\r\n\r\n'
            body = limit + head + data + b"\r\n--limit--\r\n"
            status, reply = server.request("PUT", "/datastore/?image=SECRET%5ENAME", body, Content_Type=kind)
            assert status == 200, reply
            params = (
                b'Content-Disposition: form-data; name="params"\r\n\r\n{"foreground": [[20, 20, 0]], "label": "SECRET^NAME"}'
            )
            body = limit + params + b"\r\n--limit--\r\n"
            assert server.request("POST", "/infer/points?output=json&image=SECRET%5ENAME", body, Content_Type=kind)[0] in (
                200,
                422,
            )
        assert server.stop() == 0
    finally:
        server.kill()
    assert "SECRET" not in server.log and '"level"' in server.log
    assert not [path for place in places.values() for path in place.rglob("*") if path.is_file()]
