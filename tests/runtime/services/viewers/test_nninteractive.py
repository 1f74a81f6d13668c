"""nnInteractive's protocol, spoken by its own client (nninteractive-client) over a socket."""

from __future__ import annotations

import numpy as np
import pytest
from fake_clock import FakeClock
from waiting import wait_for

from mimo_runtime.services.nninteractive import leases

pytest.importorskip("starlette")
pytest.importorskip("nnInteractive")
import nnInteractive.inference.remote as remote
import served_process

from mimo_runtime.services.http.adapters import BUILT_IN
from mimo_runtime.services.nninteractive.leases import LeaseLimits
from mimo_runtime.services.nninteractive.routes import adapter
from mimo_runtime.services.settings import ApiKeys, ServerSettings

SETTINGS = ServerSettings(port=0, max_callers=2)
SHAPE = (9, 60, 100)
#: Slices, rows and columns of the bright object.
OBJECT = (slice(2, 7), slice(20, 40), slice(30, 70))


def volume() -> np.ndarray:
    values = np.zeros(SHAPE, np.int16)
    values[OBJECT] = 200
    return values + np.arange(SHAPE[2], dtype=np.int16)


@pytest.fixture(scope="module")
def server():
    with served_process.running(SETTINGS, adapters=BUILT_IN) as address:
        yield f"http://127.0.0.1:{address.port}"


@pytest.fixture
def session(server):
    with remote.nnInteractiveRemoteInferenceSession(server) as opened:
        opened.set_image(volume()[None], {"spacing": [3.0, 1.0, 1.0]})
        opened.set_target_buffer(np.zeros(SHAPE, np.uint8))
        yield opened


def draw(array_slice: tuple, kind=np.uint8) -> np.ndarray:
    drawn = np.zeros(SHAPE, kind)
    drawn[array_slice] = 1
    return drawn


def test_a_client_learns_what_it_may_draw(session):
    assert session.ping() and session.supports_undo and session.supports_initial_label
    supported = session.supported_interactions
    assert [name for name in supported if supported[name]] == ["points", "bbox2d", "scribble", "lasso"]
    assert session.original_image_shape == (1, *SHAPE)
    assert 0 < session.lease_status()["remaining_seconds"] <= session.idle_timeout_seconds
    assert session.heartbeat() > 0


def test_a_box_is_segmented_and_followed_over_the_slices(session):
    changed = session.add_bbox_interaction([[4, 5], [20, 40], [30, 70]], include_interaction=True)
    mask = session.target_buffer
    assert mask[4, 22:38, 32:68].all() and not mask[4, :16].any() and not mask[4, :, 75:].any()
    assert [index for index in range(SHAPE[0]) if mask[index].any()] == list(range(SHAPE[0]))  # the fakes draw what is asked
    outside = np.ones(SHAPE, bool)
    outside[tuple(slice(*pair) for pair in changed)] = False
    assert not mask[outside].any()


def test_undo_gives_every_earlier_mask_back(session):
    masks = [session.target_buffer.copy()]
    for rows in ((20, 40), (10, 30), (30, 55)):
        session.add_bbox_interaction([[4, 5], [*rows], [30, 70]], True)
        masks.append(session.target_buffer.copy())
    assert not np.array_equal(masks[1], masks[2])
    for expected in masks[2::-1]:
        assert session.undo() and np.array_equal(session.target_buffer, expected)
    assert not session.undo()


def test_a_mark_changes_only_the_slices_that_are_nearest_to_it(session):
    session.add_bbox_interaction([[1, 2], [20, 40], [30, 70]], True)
    before = session.target_buffer.copy()
    changed = session.add_bbox_interaction([[7, 8], [5, 25], [10, 40]], True)
    assert changed[0][0] == 4 and np.array_equal(session.target_buffer[:4], before[:4])
    assert session.target_buffer[7, 8:22, 13:37].all() and not session.target_buffer[7, 30:].any()


def test_a_point_on_a_slice_that_the_object_reaches_corrects_this_slice_alone(session):
    session.add_bbox_interaction([[4, 5], [20, 40], [30, 70]], True)
    before = session.target_buffer.copy()
    assert before[6].any()
    changed = session.add_point_interaction([6, 8, 90], True)
    assert changed[0] == [6, 7] and session.target_buffer[6, 8, 90]
    session.add_lasso_interaction(draw((6, slice(20, 40), slice(30, 50))), True)
    assert not np.array_equal(session.target_buffer[7], before[7])  # a lasso says anew where the object is


def test_interactions_without_a_prediction_wait_for_one(session):
    assert session.add_bbox_interaction([[4, 5], [20, 40], [30, 70]], True, run_prediction=False) is None
    assert not session.target_buffer.any()
    assert session._predict() is not None and session.target_buffer[4].any()
    assert session._predict() is None  # nothing waits


def test_a_lasso_is_a_mask_whether_filled_or_an_outline(session):
    ring = draw((4, slice(20, 40), slice(30, 70)))
    ring[4, 21:39, 31:69] = 0
    session.add_lasso_interaction(ring, True)
    from_ring = session.target_buffer.copy()
    session.reset_interactions()
    assert not session.target_buffer.any()
    crop = np.ones((1, 20, 40), np.uint8)
    session.add_lasso_interaction(crop, True, interaction_bbox=[[4, 5], [20, 40], [30, 70]])
    assert from_ring[4, 30, 50] and np.array_equal(session.target_buffer, from_ring)


def test_a_scribble_and_a_point_are_points(session):
    session.add_scribble_interaction(draw((4, 30, slice(35, 65)), bool), True)
    scribbled = session.target_buffer[4].copy()
    assert scribbled[30, 40] and scribbled[30, 60] and not scribbled[:5].any()
    session.add_point_interaction([6, 10, 50], True)
    assert session.target_buffer[6, 10, 50] and np.array_equal(session.target_buffer[4], scribbled)


def test_what_is_drawn_as_no_object_is_left_out(session):
    session.add_bbox_interaction([[4, 5], [20, 40], [30, 70]], True)
    session.add_lasso_interaction(draw((4, slice(20, 30), slice(30, 50))), False)
    assert not session.target_buffer[4, 20:30, 30:50].any() and session.target_buffer[4, 35, 60]
    session.add_point_interaction([4, 25, 60], False)
    assert not session.target_buffer[4, 20:30, 30:50].any()


def test_an_initial_segmentation_stays_but_for_the_slices_that_are_corrected(session):
    initial = draw((slice(3, 6), slice(10, 30), slice(10, 50)))
    session.add_initial_seg_interaction(initial)
    assert np.array_equal(session.target_buffer, initial)
    session.add_bbox_interaction([[4, 5], [20, 40], [30, 70]], True)
    assert np.array_equal(session.target_buffer[3], initial[3]) and session.target_buffer[4, 35, 60]
    assert session.undo() and np.array_equal(session.target_buffer, initial)
    session.add_initial_seg_interaction(initial, run_prediction=True)
    overlap = (session.target_buffer & initial).sum() / initial.sum()
    assert overlap > 0.75 and not session.target_buffer[0].any()


def test_slices_of_other_planes_and_orders_of_axes_are_understood(server):
    with remote.nnInteractiveRemoteInferenceSession(server) as session:
        session.set_image(np.ascontiguousarray(volume().transpose(2, 1, 0))[None])  # x, y, z
        session.set_target_buffer(np.zeros(SHAPE[::-1], np.int32))
        session.add_bbox_interaction([[30, 70], [20, 40], [4, 5]], True)
        mask = session.target_buffer
        assert mask[32:68, 22:38, 4].all() and not mask[:, :16, 4].any() and mask.dtype == np.int32
        before = mask.copy()
        session.add_lasso_interaction(np.ones((20, 1, 3), np.uint8), True, interaction_bbox=[[0, 20], [50, 51], [6, 9]])
        assert mask[9, 50, 7] and np.array_equal(mask[..., 4], before[..., 4])


def test_refusals_have_a_sentence_where_the_client_reads_it(session):
    import httpx

    for wrong in (
        lambda: session.add_bbox_interaction([[2, 6], [20, 40], [30, 70]], True),
        lambda: session.add_bbox_interaction([[4, 5], [40, 40], [30, 70]], True),
        lambda: session.add_point_interaction([99, 0, 0], True),
        lambda: session.add_scribble_interaction(np.zeros(SHAPE, np.uint8), True),
        lambda: session.add_lasso_interaction(np.ones((1, 4, 4)), True, interaction_bbox=[[0, 1], [0, 4], [0, 5]]),
        lambda: session.add_initial_seg_interaction(np.ones((2, 2, 2), np.uint8)),
    ):
        buffer = session.target_buffer
        session.target_buffer = None
        with pytest.raises(httpx.HTTPStatusError) as refused:
            wrong()
        session.target_buffer = buffer
        content = refused.value.response.json()
        assert refused.value.response.status_code == 422 and content["detail"] == content["error"]["message"]
    assert not session.undo()  # nothing of it was kept


def test_leases_are_bounded_and_end(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(leases, "time", clock)
    limits = LeaseLimits(most=1, idle_s=600, liveness_s=0.3)
    settings = ServerSettings(port=0, keys=ApiKeys(("k" * 20,)))
    with served_process.running(settings, adapters=[adapter(limits)]) as address:
        url = f"http://127.0.0.1:{address.port}"
        with pytest.raises(Exception, match="401"):
            remote.nnInteractiveRemoteInferenceSession(url)
        first = remote.nnInteractiveRemoteInferenceSession(url, "k" * 20)
        with pytest.raises(remote.ServerAtCapacityError, match="1 sessions are open"):
            remote.nnInteractiveRemoteInferenceSession(url, "k" * 20)
        with pytest.raises(Exception, match="400"):
            first.add_point_interaction([0, 0, 0], True)
        clock.now += 1
        wait_for(lambda: _is_free(url))
        with pytest.raises(remote.SessionExpiredError, match="session has ended"):
            first.set_image(volume()[None])
        first.close()


def _is_free(url: str) -> bool:
    try:
        remote.nnInteractiveRemoteInferenceSession(url, "k" * 20).close()
    except remote.ServerAtCapacityError:
        return False
    return True


def test_a_client_works_with_the_process_of_the_command(start):
    address = start()
    with remote.nnInteractiveRemoteInferenceSession(f"http://127.0.0.1:{address.port}") as session:
        session.set_image(volume()[None].astype(np.float32))
        session.set_target_buffer(np.zeros(SHAPE, np.uint8))
        session.add_bbox_interaction([[4, 5], [20, 40], [30, 70]], True)
        session.add_point_interaction([4, 30, 50], True)
        session.undo()
        assert session.target_buffer.shape == SHAPE
    assert address.stop() == 0 and "Traceback" not in address.log
