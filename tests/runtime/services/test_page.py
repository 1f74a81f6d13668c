"""The files of the page, and what it asks the service for beside questions."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("starlette")
import served
from dicom_series import as_bytes, ball, ct_slice

from mimo_runtime.services.http.page.adapter import PAGE
from mimo_runtime.services.http.page.files import SITE, site_files
from mimo_runtime.services.settings import ApiKeys, ServerSettings

KEY = "k" * 32
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def client():
    with served.client(adapters=(PAGE,)) as ready:
        yield ready


def store(client, data: bytes) -> str:
    reply = client.post("/v1/files", content=data, headers=BYTES)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


def ct_files(order: list[int]) -> list[bytes]:
    values, _ = ball(len(order))
    return [as_bytes(ct_slice(number, values[k], (0.0, 0.0, 10.0 + 2 * k))) for number, k in enumerate(order, 1)]


def test_every_file_of_the_page_is_served_with_a_strict_policy(client):
    assert len(site_files()) > 10
    for name in site_files():
        reply = client.get("/" if name == "index.html" else f"/{name}")
        policy = reply.headers["content-security-policy"]
        assert reply.status_code == 200 and "unsafe" not in policy and "default-src 'none'" in policy, name
        assert reply.headers["x-content-type-options"] == "nosniff" and reply.headers["x-frame-options"] == "DENY"


def test_the_page_loads_nothing_of_other_hosts_and_has_no_inline_script():
    for name, path in site_files().items():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|\bon(click|load|error)=|style=|javascript:|\beval\(|innerHTML", text), name
    assert re.findall(r"<script[^>]*>([^<]*)</script>", (SITE / "index.html").read_text("utf-8")) == [""]


def test_the_page_is_small():
    assert sum(path.stat().st_size for path in site_files().values()) < 300_000


@pytest.mark.parametrize(
    "path", ["/page/..%2findex.html", "/page/../app.py", "/page/%2e%2e/files.py", "/page/none.js", "/page/"]
)
def test_another_path_is_not_served(client, path: str):
    assert client.get(path).status_code == 404


def test_the_page_needs_no_key_and_its_questions_do():
    with served.client(ServerSettings(keys=ApiKeys((KEY,))), adapters=(PAGE,)) as client:
        assert client.get("/").status_code == 200 and client.get("/page/main.js").status_code == 200
        assert client.get("/v1/model").status_code == 401
        assert client.post("/v1/files", content=served.png(), headers=BYTES).status_code == 401
        assert client.post("/v1/series", json={"images": ["a"]}).status_code == 401


def test_a_series_comes_in_the_order_of_its_positions(client):
    pytest.importorskip("pydicom")
    order = [2, 0, 3, 1]
    ids = [store(client, data) for data in ct_files(order)]
    content = client.post("/v1/series", json={"images": ids}).json()
    assert [frame["image"] for frame in content["frames"]] == [ids[order.index(k)] for k in range(4)]
    assert [frame["position_mm"] for frame in content["frames"]] == [10.0, 12.0, 14.0, 16.0]
    assert content["frames"][0]["spacing_mm"] == [0.8, 0.8] and content["modality"] == "ct"
    assert content["stacks"] == [{"start": 0, "stop": 4, "label": "", "distance_mm": 2.0, "problem": ""}]


def test_a_series_larger_than_the_store_is_in_order_and_its_slices_are_sent_again():
    pytest.importorskip("pydicom")
    files = ct_files([5, 2, 0, 3, 1, 4])
    size = len(files[0])
    with served.client(ServerSettings(max_callers=1, store_bytes=2 * size + size // 2), adapters=(PAGE,)) as client:
        ids = [store(client, data) for data in files]
        assert len(client.service.store.files) == 2
        content = client.post("/v1/series", json={"images": ids}).json()
        assert [frame["position_mm"] for frame in content["frames"]] == [10.0, 12.0, 14.0, 16.0, 18.0, 20.0]
        first = content["frames"][0]["image"]
        refused = client.get(f"/v1/images/{first}/picture")
        assert refused.status_code == 404 and refused.json()["error"]["message"].endswith("Upload the image again.")
        assert store(client, files[ids.index(first)]) == first
        assert client.get(f"/v1/images/{first}/picture").status_code == 200
        assert client.delete(f"/v1/images/{ids[0]}").status_code == 204  # what is left of a forgotten file: its headers
        assert client.post("/v1/series", json={"images": ids}).status_code == 404


def test_a_file_larger_than_the_store_is_refused_with_the_option_that_helps():
    [data] = ct_files([0])
    with served.client(ServerSettings(store_bytes=len(data) - 1), adapters=(PAGE,)) as client:
        for path in ("/v1/files", "/v1/images"):
            refused = client.post(path, content=data, headers=BYTES)
            assert refused.status_code == 413 and "Start the service with a larger --store" in refused.text


def test_the_series_of_several_is_chosen_by_its_number(client):
    pytest.importorskip("pydicom")
    values, _ = ball(2)
    first = [as_bytes(ct_slice(k + 1, values[k], (0, 0, 2.0 * k))) for k in range(2)]
    second = as_bytes(ct_slice(9, values[0], (0, 0, 0.0), SeriesInstanceUID="1.2.826.0.1.99"))
    ids = [store(client, data) for data in (*first, second)]
    content = client.post("/v1/series", json={"images": ids, "series": 2}).json()
    assert [frame["image"] for frame in content["frames"]] == ids[2:]
    assert content["number"] == 2 and [one["frames"] for one in content["series"]] == [2, 1]
    refused = client.post("/v1/series", json={"images": ids, "series": 3})
    assert refused.status_code == 422 and "no series 3" in refused.text


def test_a_picture_shows_the_window_that_is_wanted(client):
    pytest.importorskip("pydicom")
    import io

    from PIL import Image

    values = np.zeros((40, 40), np.int16)
    values[:, 20:] = 100
    image = store(client, as_bytes(ct_slice(1, values, (0, 0, 0))))
    reply = client.get(f"/v1/images/{image}/picture", params={"window": "50,100"})
    pixels = np.asarray(Image.open(io.BytesIO(reply.content)))
    assert reply.headers["x-window"] == "50,100" and pixels[0, 0].tolist() == [0] * 3 and pixels[0, 39].tolist() == [255] * 3
    wide = np.asarray(Image.open(io.BytesIO(client.get(f"/v1/images/{image}/picture?window=50,1000").content)))
    assert 0 < int(wide[0, 39, 0]) - int(wide[0, 0, 0]) < 40


def test_pictures_of_eight_bits_have_no_window(client):
    image = store(client, served.png())
    reply = client.get(f"/v1/images/{image}/picture")
    assert reply.headers["content-type"] == "image/png" and "x-window" not in reply.headers
    assert len(client.service.store.scans) == 0  # nothing was encoded


@pytest.mark.parametrize(
    ("data", "kind", "status"), [(b"no image", "application/octet-stream", 422), (b"", "application/octet-stream", 422),
                                 (b"x", "text/html", 415)],
)  # fmt: skip
def test_a_file_that_is_no_image_is_not_stored(client, data: bytes, kind: str, status: int):
    before = client.service.store.nbytes
    assert client.post("/v1/files", content=data, headers={"Content-Type": kind}).status_code == status
    assert client.service.store.nbytes == before


def test_nothing_of_the_patient_comes_back(client):
    pytest.importorskip("pydicom")
    image = store(client, ct_files([0])[0])
    reply = client.post("/v1/series", json={"images": [image]})
    assert reply.status_code == 200 and "SECRET" not in reply.text
    assert "SECRET" not in client.post("/v1/series", json={"images": ["SECRET"]}).text
