"""Volumes: a ball of bright discs, followed from one slice or asked for by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bright_discs import SIZE, box_around, bright_mimo, disc
from PIL import Image

from mimo_runtime.errors import PromptError
from mimo_runtime.evaluation.metrics import dice
from mimo_runtime.series.image_series import ImageSeries, open_image_series

EMPTY = disc(200, 200)
#: Radii of the discs of a ball in slices 2 to 8 of 11.
RADII = {2: 7, 3: 9, 4: 11, 5: 12, 6: 11, 7: 9, 8: 7}
BALL = [disc(30 + i / 2, 30, RADII[i]) if i in RADII else EMPTY for i in range(11)]
BOX = [box_around(32, 30, 13)]


def series_of(folder: Path, slices: list[np.ndarray]) -> ImageSeries:
    first, *others = map(Image.fromarray, slices)
    first.save(folder / "volume.tiff", save_all=True, append_images=others)
    return open_image_series(folder / "volume.tiff")


def volume_dice(answer, slices) -> float:
    finding = answer.findings[0]
    masks = np.stack([finding.mask(i, SIZE, SIZE) for i in range(len(slices))])
    return dice(masks.reshape(-1, SIZE), np.stack([s.max(axis=2) > 100 for s in slices]).reshape(-1, SIZE))


def test_a_ball_is_followed_from_one_slice_in_both_directions(tmp_path: Path) -> None:
    done = []
    series = series_of(tmp_path, [*BALL, EMPTY, EMPTY, disc(30, 30)])
    answer = bright_mimo().segment_volume(series, frame=5, boxes=BOX, progress=lambda *p: done.append(p))
    assert len(answer.findings) == 1 and answer.findings[0].frames == tuple(RADII) and answer.is_complete
    assert volume_dice(answer, [*BALL, EMPTY, EMPTY, EMPTY]) > 0.85
    assert done[-1] == (14, 14) and [f.frame for f in answer.frames] == list(range(11))


def test_a_gap_of_one_slice_does_not_end_it(tmp_path: Path) -> None:
    series = series_of(tmp_path, [*BALL[:6], EMPTY, *BALL[7:]])
    answer = bright_mimo().segment_volume(series, frame=4, boxes=BOX)
    assert {7, 8} <= {frame for finding in answer.findings for frame in finding.frames}


def test_by_name_every_slice_is_asked_and_a_gap_is_filled(tmp_path: Path) -> None:
    mimo = bright_mimo()
    answer = mimo.segment_volume(series_of(tmp_path, BALL), "polyp")
    assert len(answer.frames) == 11 and answer.findings[0].phrase == "polyp" and volume_dice(answer, BALL) > 0.85
    mimo = mimo.with_config(mimo.config)  # without caches
    decoder, asked = mimo.engines["mask_decoder"], []
    run = decoder.run

    def forgetful(inputs):
        outputs = run(inputs)
        asked.append(bool(inputs["reference_map"].any()))
        if len(asked) == 6:  # slice 5
            outputs["presence"][:] = -4
        return outputs

    decoder.run = forgetful
    filled = mimo.segment_volume(series_of(tmp_path, BALL), "polyp", refine=False)
    assert asked == [False] * 11 + [True] and filled.findings[0].frames == tuple(RADII)


@pytest.mark.parametrize(("presence", "kept"), [(0.2, False), (6.0, True)])
def test_an_isolated_slice_stays_only_if_it_is_confident(tmp_path: Path, presence: float, kept: bool) -> None:
    mimo = bright_mimo()
    mimo = mimo.with_config(type(mimo.config).from_dict({**mimo.config.to_dict(), "abstain_threshold": 0.6}))
    decoder, count = mimo.engines["mask_decoder"], []
    run = decoder.run

    def unsure(inputs):
        outputs = run(inputs)
        count.append(0)
        if len(count) == 10:  # the isolated slice
            outputs["presence"][0, 0] = presence
        return outputs

    decoder.run = unsure
    slices = [*BALL[2:9], EMPTY, EMPTY, disc(50, 50), EMPTY]
    answer = mimo.segment_volume(series_of(tmp_path, slices), "polyp", refine=False)
    assert (9 in {frame for finding in answer.findings for frame in finding.frames}) == kept


def test_cancelling_keeps_the_slices_that_are_complete(tmp_path: Path) -> None:
    check_cancelled(tmp_path, {"text": "polyp"})
    check_cancelled(tmp_path, {"frame": 5, "boxes": BOX})


def check_cancelled(folder: Path, arguments: dict) -> None:
    done: list[int] = []
    answer = bright_mimo().segment_volume(
        series_of(folder, BALL), **arguments, progress=lambda n, of: done.append(n), should_stop=lambda: len(done) >= 3
    )
    assert not answer.is_complete and len(answer.frames) == 3


def test_a_prompt_that_fits_no_slice_is_refused(tmp_path: Path) -> None:
    series = series_of(tmp_path, BALL)
    with pytest.raises(PromptError, match="the prompt has no slice"):
        bright_mimo().segment_volume(series, boxes=BOX)
    with pytest.raises(PromptError, match="the series has no slice 11. Use 0 to 10"):
        bright_mimo().segment_volume(series, frame=11, boxes=BOX)
    with pytest.raises(PromptError, match="the request is empty"):
        bright_mimo().segment_volume(series)


def named_by_the_model(name: str = "polyp"):
    """A model whose answer about everything shows the bright structure as an entity."""
    mimo = bright_mimo()
    decoder, query = mimo.engines["mask_decoder"], 1 + mimo.config.entities.index(name)
    run = decoder.run

    def with_entity(inputs):
        outputs = run(inputs)
        for output in ("masks", "presence"):
            outputs[output][0, query] = outputs[output][0, 0]
        return outputs

    decoder.run = with_entity
    return mimo


def test_a_structure_in_a_box_that_the_model_can_name_is_followed_by_its_name(tmp_path: Path) -> None:
    jump = [disc(30, 30, 9), disc(24, 30, 9), disc(18, 30, 9), EMPTY, EMPTY, disc(18, 30, 9)]
    answer = named_by_the_model().segment_volume(series_of(tmp_path, jump), frame=0, boxes=[box_around(30, 30)])
    assert answer.findings[0].frames == (0, 1, 2) and volume_dice(answer, [*jump[:5], EMPTY]) > 0.85


def test_a_name_that_shows_something_elsewhere_is_not_the_structure(tmp_path: Path) -> None:
    slices = [disc(16, 16, 9), disc(16, 16, 9), disc(48, 48, 9), disc(48, 48, 9)]
    answer = named_by_the_model().segment_volume(series_of(tmp_path, slices), frame=0, boxes=[box_around(16, 16)])
    assert {frame for finding in answer.findings for frame in finding.frames} == {0, 1}
