"""Parts of nnInteractive's protocol without a server: arrays of clients, leases, memory."""

from __future__ import annotations

import struct

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("blosc2")
import served

from mimo_runtime.errors import MimoError, PromptError
from mimo_runtime.services.http.errors import HttpError
from mimo_runtime.services.interaction.marks import SliceMarks, filled
from mimo_runtime.services.interaction.segmentation import MOST_STEPS, Segmentation
from mimo_runtime.services.nninteractive import wire
from mimo_runtime.services.nninteractive.leases import LeaseLimits, Leases
from mimo_runtime.services.nninteractive.routes import adapter
from mimo_runtime.services.settings import ServerSettings
from mimo_runtime.services.volumes import Volume

RANDOM = np.random.default_rng(3)


@pytest.mark.parametrize("kind", wire.TYPES)
def test_arrays_come_back_as_they_were(kind: str):
    array = (RANDOM.random((3, 4, 5)) * 2).astype(kind)
    back = wire.unpack(wire.pack(array), 10_000)
    assert back.dtype == array.dtype and np.array_equal(back, array)


def test_damaged_arrays_are_refused_before_memory_is_taken():
    good = wire.pack(np.arange(600, dtype=np.int16).reshape(5, 6, 20))
    with pytest.raises(HttpError, match="needs"):
        wire.unpack(good, 1000)
    head = struct.pack("<4s4B5s", b"NNIA", 1, 1, 3, 5, b"int16")
    bomb = head + struct.pack("<3q", 1 << 40, 1 << 40, 1 << 40) + struct.pack("<I", 0)
    with pytest.raises(HttpError, match="needs"):
        wire.unpack(bomb, 1 << 30)
    objects = struct.pack("<4s4B6s", b"NNIA", 1, 1, 1, 6, b"object") + struct.pack("<qI", 1, 0)
    for body in (b"", b"NNIA", b"PNG!" + good[4:], objects, good + b"x", head + struct.pack("<3qI", -1, 2, 2, 1)):
        with pytest.raises(MimoError, match="damaged"):
            wire.unpack(body, 1 << 20)
    for end in range(8, len(good), 7):
        with pytest.raises(MimoError, match="damaged"):
            wire.unpack(good[:end], 1 << 20)
    for _ in range(300):
        place = int(RANDOM.integers(0, len(good)))
        changed = good[:place] + bytes([good[place] ^ int(RANDOM.integers(1, 256))]) + good[place + 1 :]
        try:
            wire.unpack(changed, 1 << 20)
        except MimoError:
            continue


def test_leases_end_without_heartbeats_and_without_interactions():
    now = [0.0]
    leases = Leases(LeaseLimits(2, idle_s=100, liveness_s=30), lambda: now[0])
    crashed, idle = leases.claim(), leases.claim()
    with pytest.raises(HttpError, match="2 sessions"):
        leases.claim()
    for now[0] in range(20, 120, 20):
        leases.get(idle.token, is_active=False)
    assert len(leases) == 0 or now[0] <= 100
    with pytest.raises(HttpError, match="has ended"):
        leases.peek(crashed.token)
    now[0] = 101.0
    with pytest.raises(HttpError, match="has ended"):
        leases.get(idle.token)
    leases.release(idle.token)
    assert crashed.token != idle.token and len(idle.token) >= 32


def test_an_outline_is_filled_also_where_it_closes_at_corners():
    outline = np.zeros((9, 9), bool)
    for i in range(4):  # a diamond, whose pixels touch at corners only
        outline[i, 4 - i] = outline[i, 4 + i] = outline[8 - i, 4 - i] = outline[8 - i, 4 + i] = True
    outline[4, 0] = outline[4, 8] = True
    inside = filled(outline)
    rows, columns = np.indices((9, 9)) - 4
    assert np.array_equal(inside, abs(rows) + abs(columns) <= 4)
    open_line = np.zeros((5, 5), bool)
    open_line[2, 1:4] = True
    assert np.array_equal(filled(open_line), open_line)


def test_the_newest_points_stay_and_one_on_the_object():
    marks = SliceMarks(points=((1, 1, 1), (2, 2, 0), (3, 3, 0), (4, 4, 0)))
    assert marks.latest_points(2) == ((1, 1, 1), (4, 4, 0))
    assert marks.latest_points(9) == marks.points


def test_steps_are_bounded_and_an_error_takes_its_step_back():
    segmentation = Segmentation(Volume(np.zeros((3, 20, 20), np.uint8)))
    for _ in range(MOST_STEPS + 5):
        with segmentation.step():
            segmentation.point((1, 5, 5), True)
    with pytest.raises(PromptError), segmentation.step():
        segmentation.point((1, 6, 6), True)
        segmentation.point((1, 20, 6), True)
    assert len(segmentation.marks[1].points) == MOST_STEPS + 5
    undone = 0
    while segmentation.undo()[0]:
        undone += 1
    assert undone == MOST_STEPS and len(segmentation.marks[1].points) == 5


def test_slices_lie_across_the_wide_spacing_or_the_odd_side():
    def axis(shape, spacing=None):
        return Volume(np.zeros(shape, np.uint8), spacing).slice_axis

    assert axis((30, 64, 64)) == 0 and axis((64, 64, 30)) == 2 and axis((64, 1, 64)) == 1
    assert axis((64, 64, 64), (1, 1, 3)) == 2 and axis((64, 64, 64), (1, 1, 1)) == 0


def test_values_with_air_and_bone_are_taken_for_hounsfield_units():
    values = np.full((4, 16, 16), -1000, np.int16)
    values[:, 4:12, 4:12] = 40
    values[:, 6, 6] = 800
    volume = Volume(values)
    image = volume.series(volume.plane(0), {"ct": (40.0, 400.0)})[2]
    assert image.modality == "ct" and image.window == (40.0, 400.0) and image.pixels[5, 5, 0] == 128


def test_images_beyond_the_memory_of_the_store_are_refused():
    settings = ServerSettings(max_callers=1, store_bytes=200_000)
    with served.client(settings, adapters=[adapter()]) as client:
        tokens = [client.post("/claim").json()["lease_token"] for _ in range(2)]

        def send(token: str, shape: tuple[int, ...]):
            headers = {"X-Lease-Token": token, "X-Meta": "{}", "Content-Type": "application/octet-stream"}
            return client.post("/set_image", content=wire.pack(np.zeros(shape, np.int16)), headers=headers)

        assert send(tokens[0], (1, 10, 60, 100)).status_code == 200
        refused = send(tokens[1], (1, 10, 60, 100))
        assert refused.status_code == 413 and "are left" in refused.json()["detail"]
        assert client.post("/release", headers={"X-Lease-Token": tokens[0]}).json() == {"released": True}
        assert send(tokens[1], (1, 10, 60, 100)).json() == {"original_image_shape": [1, 10, 60, 100]}
        assert send(tokens[1], (2, 5, 60, 100)).status_code == 422
        assert client.post("/undo", headers={"X-Lease-Token": tokens[1]}, content=b"{}").status_code == 415
        lost = client.post("/undo", headers={"X-Lease-Token": "x"}, json={})
        assert lost.status_code == 410 and lost.json()["error"]["code"] == 410
        page = client.post("/claim", headers={"Origin": "https://evil.example"})
        assert page.status_code == 403 and client.get("/healthz").json() == {"ok": True}
