"""MONAI Label's protocol, with requests as 3D Slicer, OHIF and MITK send them."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import fakes
import numpy as np
import pytest
from waiting import wait_for

pytest.importorskip("starlette")
pytest.importorskip("nibabel")
import dicom_series
import nibabel
import served

from mimo_runtime.errors import ImageError
from mimo_runtime.services.monai_label.nrrd import nrrd_bytes, read_nrrd
from mimo_runtime.services.monai_label.routes import MONAI_LABEL
from mimo_runtime.services.settings import ApiKeys, ServerSettings

SHAPE = (64, 64, 5)
#: i to the left, j to the back, k to the head, as the slices of a scanner.
LPS = np.diag([-0.8, -0.8, 3.0, 1.0])


@pytest.fixture(scope="module")
def client():
    with served.client(adapters=[MONAI_LABEL]) as ready:
        yield ready


def nifti(affine: np.ndarray = LPS, shape: tuple[int, ...] = SHAPE) -> bytes:
    values = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    return gzip.compress(nibabel.Nifti1Image(values, affine).to_bytes())


def slicer_body(fields: dict[str, str], files: dict[str, bytes]) -> tuple[bytes, str]:
    """As ``encode_multipart_formdata`` of the extension in 3D Slicer."""
    limit, lines = "----------lImIt_of_THE_fIle_eW_$", []
    for name, value in fields.items():
        lines += ["--" + limit, f'Content-Disposition: form-data; name="{name}"', "", value]
    for name, data in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="/tmp/SECRET^NAME.nii.gz"'
        lines += ["--" + limit, head, "Content-Type: application/octet-stream", "", data]
    lines += ["--" + limit + "--", ""]
    body = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\r\n" for line in lines)
    return body, f"multipart/form-data; boundary={limit}"


def slicer(client, method: str, path: str, fields: dict[str, str] | None = None, files: dict[str, bytes] | None = None):
    body, kind = slicer_body({"params": json.dumps({"client_id": "user-xyz"}), **(fields or {})}, files or {})
    return client.request(method, path, content=body, headers={"content-type": kind})


def parts_of(reply) -> tuple[dict, bytes]:
    """As MITK reads a reply: parts between boundaries, and what follows their type."""
    boundary = ("--" + reply.headers["content-type"].split("boundary=")[1]).encode()
    parts = [part for part in reply.content.split(boundary) if part]
    params = parts[0].split(b"Content-Type: application/json")[1]
    image = parts[1].split(b"Content-Type: application/octet-stream")[1].lstrip(b" \r\n")
    return json.loads(params), image[: -len(b"\r\n")]


def labels_of(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    return np.asarray(image.dataobj), image.affine


def test_info_lists_models_and_labels(client):
    info = client.get("/info/").json()
    assert info["labels"] == list(fakes.ENTITIES)
    kinds = {name: (model["type"], model["dimension"]) for name, model in info["models"].items()}
    assert kinds["all_structures"] == ("segmentation", 3) and kinds["liver"] == ("segmentation", 3)
    assert kinds["points"] == ("deepgrow", 3) and kinds["points_2d"] == ("deepgrow", 2)
    assert info["models"]["absent_polyp"]["labels"] == {"absent polyp": 1}  # clients write "+" for a space in an address
    assert info["models"]["all_structures"]["labels"]["aorta"] == 1 + fakes.ENTITIES.index("aorta")
    assert all(set(model) == {"type", "labels", "dimension", "description", "config"} for model in info["models"].values())
    assert info["trainers"] == {} and client.get("/train/?check_if_running=true").status_code == 404


@pytest.mark.parametrize(
    ("signs", "front"),
    [((-1, -1, 1), slice(0, 14)), ((1, 1, 1), slice(50, 64)), ((1, -1, -1), slice(0, 14))],
)
def test_slicer_gets_labels_on_the_voxels_of_its_file(client, signs, front):
    affine = np.diag([0.8 * signs[0], 0.8 * signs[1], 3.0 * signs[2], 1.0])
    affine[:3, 3] = (10, 20, 30)
    assert slicer(client, "PUT", "/datastore/?image=case+1", files={"file": nifti(affine)}).json()["image"] == "case 1"
    reply = slicer(client, "POST", "/infer/all_structures?image=case+1")
    assert reply.status_code == 200, reply.text
    params, data = parts_of(reply)
    labels, back = labels_of(data)
    assert labels.shape == SHAPE and np.allclose(back, affine)
    names = params["label_names"]
    assert set(names) == {"liver", "aorta"} and sorted(names.values()) == [1, 2]
    # The fakes draw the liver in the upper quarter of a slice: at the patient's front.
    assert (labels[:, front, :] == names["liver"]).mean() > 0.95
    liver = np.flatnonzero((labels == names["liver"]).any(axis=(0, 2)))
    assert 14 <= len(liver) <= 18 and (front.start in liver or front.stop - 1 in liver)


def test_ohif_gets_nrrd_with_the_values_of_the_list(client):
    slicer(client, "PUT", "/datastore/image?image=1.2.3", files={"file": nifti()})
    params = {"result_extension": ".nrrd", "result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
    form = {"params": (None, json.dumps(params))}
    reply = client.post("/infer/all_structures?image=1.2.3&output=image", files=form)
    head, _, voxels = reply.content.partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:])
    assert head.startswith(b"NRRD0004") and fields["encoding"] == "raw" and fields["type"] == "unsigned char"
    assert fields["sizes"] == "64 64 5" and fields["space"] == "left-posterior-superior"
    directions = np.array([json.loads(f"[{row.strip('()')}]") for row in fields["space directions"].split()])
    assert np.allclose(directions, np.diag([0.8, 0.8, 3.0]))
    labels = np.frombuffer(voxels, np.uint8).reshape(SHAPE, order="F")
    info = client.get("/info/").json()["models"]["all_structures"]["labels"]
    assert set(np.unique(labels)) == {0, info["liver"], info["aorta"]} and (labels[:, :14] == info["liver"]).mean() > 0.95


def test_mitk_sends_the_file_with_each_request(client):
    points = '{"foreground":[[40,20,2]],"background":[[5,60,2]],"reset_state":true}'
    files = [("params", (None, points)), ("file", ("post_from_mitk.nii.gz", nifti(), "application/octet-stream"))]
    params, data = parts_of(client.post("/infer/points", files=files))
    labels, affine = labels_of(data)
    assert labels.shape == SHAPE and np.allclose(affine, LPS) and set(np.unique(labels)) == {0, 1}
    assert labels[40, 20, 2] and not labels[5, 60, 2] and params["label_names"] == {"object": 1}
    one, _ = labels_of(parts_of(client.post("/infer/points_2d", files=files))[1])
    assert np.array_equal(one[..., 2], labels[..., 2]) and not one[..., (0, 1, 3, 4)].any()


def test_a_box_and_a_name_select_one_object(client):
    session = slicer(client, "PUT", "/session/", files={"files": nifti()}).json()["session_id"]
    assert client.get(f"/session/{session}").json()["expiry"] > 0
    query = f"?image=any&session_id={session}"
    box = {"params": json.dumps({"roi": [20, 50, 10, 30, 0, 4], "slice": 1, "label": "lesion"})}
    params, data = parts_of(slicer(client, "POST", f"/infer/points{query}", box))
    labels, _ = labels_of(data)
    assert params["label_names"] == {"lesion": 1} and labels[24:46, 14:26, 1].all() and not labels[:14, :, 1].any()
    params, data = parts_of(slicer(client, "POST", f"/infer/liver{query}"))
    assert params["label_names"] == {"liver": 1} and labels_of(data)[0].max() == 1
    assert slicer(client, "DELETE", f"/session/{session}").status_code == 200
    assert client.get(f"/session/{session}").status_code == 404


def test_a_series_comes_as_an_archive_or_as_its_files(client, tmp_path: Path):
    paths = dicom_series.write_ct_series(tmp_path / "ct", order=[3, 1, 0, 2, 7, 6, 5, 4])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in paths:
            file.write(path, path.name)
    slicer(client, "PUT", f"/datastore/?image={dicom_series.SERIES}", files={"file": archive.getvalue()})
    form = {"params": (None, json.dumps({"foreground": [[20, 20, 4]]}))}
    reply = client.post(f"/infer/points?image={dicom_series.SERIES}", files=form)
    labels, affine = labels_of(parts_of(reply)[1])
    assert labels.shape == (40, 40, 8) and labels[20, 20, 4]
    expected = np.diag([-0.8, -0.8, 2.0, 1.0])
    expected[2, 3] = 10
    assert np.allclose(affine, expected)
    files = [("files", (path.name, path.read_bytes())) for path in paths]
    session = client.put("/session/", files=files, data={"client_id": "user-xyz"}).json()["session_id"]
    again = client.post(f"/infer/points?image=&session_id={session}", files=form)
    assert np.array_equal(labels_of(parts_of(again)[1])[0], labels)


def test_labels_are_saved_and_the_next_image_is_one_without(client):
    with served.client(adapters=[MONAI_LABEL]) as own:
        for name in ("a", "b"):
            slicer(own, "PUT", f"/datastore/?image={name}", files={"file": nifti()})
        assert own.post("/activelearning/first", json={"client_id": "u"}).json()["id"] == "a"
        saved = slicer(own, "PUT", "/datastore/label?image=a&tag=final", files={"label": b"label"})
        assert saved.json() == {"image": "a", "label": "a"}
        assert own.get("/datastore/label?label=a&tag=final").content == b"label"
        assert own.post("/activelearning/first", json={}).json()["id"] == "b"
        assert own.get("/datastore/").json() == {"total": 2, "completed": 1}
        assert own.get("/datastore/?output=all").json()["objects"]["a"]["labels"].keys() == {"final"}
        assert gzip.decompress(own.get("/datastore/image?image=b").content)
        run = own.post("/batch/infer/liver?images=unlabeled&run_sync=true", json={}).json()
        assert (run["status"], run["total"], run["completed"]) == ("DONE", 1, 1)
        assert own.get("/batch/infer").json()["status"] == "DONE"
        assert own.get("/batch/infer?check_if_running=true").status_code == 404
        labels, _ = labels_of(own.get("/datastore/label?label=b&tag=original").content)
        assert labels.shape == SHAPE and labels.any()
        assert own.delete("/datastore/?id=a").status_code == 200 and own.get("/datastore/").json()["total"] == 1


def test_a_run_over_images_can_be_ended():
    with served.client(make=lambda: fakes.fake_mimo(delay=0.02), adapters=[MONAI_LABEL]) as own:
        assert own.delete("/batch/infer").status_code == 404
        assert own.post("/batch/infer/liver", json={}).status_code == 422
        for name in "abcdefgh":
            slicer(own, "PUT", f"/datastore/?image={name}", files={"file": nifti(shape=(16, 16, 20))})
        assert own.post("/batch/infer/all_structures", json={}).json()["status"] == "RUNNING"
        assert own.post("/batch/infer/liver", json={}).status_code == 429
        own.delete("/batch/infer")
        wait_for(lambda: own.get("/batch/infer?check_if_running=true").status_code != 200)
        state = own.get("/batch/infer").json()
        assert state["status"] == "CANCELED" and state["completed"] < 8


def test_the_api_key_is_the_password_of_slicer():
    with served.client(ServerSettings(keys=ApiKeys(("k" * 20,))), adapters=[MONAI_LABEL]) as own:
        assert own.get("/auth/").json() == {"enabled": True} and own.get("/info/").status_code == 401
        form = {"username": "u", "password": "wrong", "grant_type": "password"}
        assert own.post("/auth/token", data=form).status_code == 401
        token = own.post("/auth/token", data={**form, "password": "k" * 20}).json()
        headers = {"Authorization": f"{token['token_type']} {token['access_token']}"}
        assert own.get("/auth/token/valid").status_code == 401
        assert own.get("/auth/token/valid", headers=headers).status_code == 200
        assert own.get("/info/", headers=headers).json()["labels"]


def test_refusals_have_a_status_and_a_detail(client):
    def post(path: str, params: str = "{}", **files: bytes):
        return slicer(client, "POST", path, {"params": params}, files)

    data, long = nifti(), "x" * 300
    cases = [
        (post("/infer/points?image=missing"), 404), (post("/infer/unknown", file=data), 404),
        (post("/infer/points", file=data), 422), (post("/infer/points", "[]", file=data), 422),
        (post("/infer/points", '{"foreground": [[1, 2]]}', file=data), 422),
        (post("/infer/points", '{"foreground": [[999, 2, 1]]}', file=data), 422),
        (post("/infer/liver", '{"result_extension": "/../x"}', file=data), 422),
        (post("/infer/liver", file=b"no image"), 422), (post("/infer/liver", file=data[:200]), 422),
        (post("/infer/liver?output=dicom_seg", file=data), 422), (post("/infer/liver", file=data, label=data), 422),
        (client.post("/infer/liver", json={}), 415), (client.post("/activelearning/random", json={}), 404),
        (client.post("/train/liver", json={}), 404), (client.get("/datastore/label?label=x&tag=y"), 404),
        (slicer(client, "PUT", "/session/"), 422),
        (slicer(client, "PUT", f"/datastore/?image={long}", files={"file": data}), 422),
        (client.post("/infer/liver", headers={"Origin": "https://evil.example"}), 403),
    ]  # fmt: skip
    for reply, status in cases:
        assert reply.status_code == status, (reply.request.url, reply.text)
        assert status == 403 or reply.json()["detail"].endswith("."), reply.text
        assert "SECRET" not in reply.text and "/tmp" not in reply.text
    assert client.get("/logs/").headers["content-type"].startswith("text/plain")


def test_nrrd_states_type_and_place_for_16_bit_and_compressed_voxels():
    labels = np.arange(24, dtype=np.uint16).reshape(2, 3, 4) * 300
    affine = np.array([[0, 2, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]], float)
    head, _, body = nrrd_bytes(labels, affine).partition(b"\n\n")
    assert b"type: unsigned short" in head and b"space origin: (-5,-6,7)" in head
    assert b"space directions: (0,-1,0) (-2,0,0) (0,0,3)" in head
    assert np.array_equal(np.frombuffer(gzip.decompress(body), "<u2").reshape(2, 3, 4, order="F"), labels)


@pytest.mark.parametrize("compress", [True, False])
def test_nrrd_of_slicer_is_read_where_it_lies(client, compress: bool):
    values = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    affine = np.array([[0.8, 0, 0, 5], [0, 0.8, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]], float)
    data = nrrd_bytes(values, affine, compress)
    voxels, back = read_nrrd(data, values.nbytes)
    assert np.array_equal(voxels, values) and np.allclose(back, affine)
    form = [("params", (None, '{"result_extension": ".nii.gz"}')), ("file", ("a.nrrd", data))]
    params, label = parts_of(client.post("/infer/all_structures", files=form))
    labels, placed = labels_of(label)
    assert np.allclose(placed, affine) and (labels[:, 50:] == params["label_names"]["liver"]).mean() > 0.95


def test_damaged_nrrd_is_refused():
    data = nrrd_bytes(np.zeros((8, 8, 2), np.uint8), np.eye(4))
    head, _, body = data.partition(b"\n\n")
    wrong = [
        head, head + b"\n\n" + body[:12], head.replace(b"8 8 2", b"8 8 9") + b"\n\n" + body,
        head.replace(b"8 8 2", b"9 9999999 99999999") + b"\n\n",
        head.replace(b"gzip", b"bzip2") + b"\n\n" + body, head.replace(b"dimension: 3", b"dimension: 4") + b"\n\n" + body,
        head.replace(b"space origin: (0", b"space origin: (nan") + b"\n\n" + body, b"NRRD0004\n\n",
        head + b"\ndata file: /etc/passwd\n\n" + body, head.replace(b"(", b"[") + b"\n\n" + body,
    ]  # fmt: skip
    for content in wrong:
        with pytest.raises(ImageError):
            read_nrrd(content, 1 << 20)
