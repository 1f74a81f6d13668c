"""An image that would exceed the memory limit is refused before it is encoded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import fakes
import numpy as np
import pytest

from mimo_runtime import MemoryLimitError, Mimo
from mimo_runtime.admission.memory import BYTES_PER_PIXEL, MemoryBudget
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.loading import required_mb

SIDE = 512
IMAGE_MB = SIDE * SIDE * BYTES_PER_PIXEL / 2**20


def test_an_image_that_does_not_fit_is_refused_with_what_is_needed() -> None:
    image = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    with fakes.fake_mimo(memory=MemoryBudget(100, 98, 10)) as mimo:
        with pytest.raises(
            MemoryLimitError, match="1024 x 512 pixels needs about 102 MB of memory, more than max_memory=100. Ra"
        ):
            mimo.open(image)
        assert fakes.calls(mimo)["vision_encoder"] == 0
        assert mimo.open(image[:, :SIDE]).ask("polyp").text  # 100 MB


def test_encodings_at_the_same_time_count() -> None:
    budget = MemoryBudget(110, 98, 10)
    with budget.encoding(8, 8):
        with pytest.raises(MemoryLimitError, match="beside 1 others needs about 112 MB"), budget.encoding(SIDE, 2 * SIDE):
            pytest.fail("admitted")
        with budget.encoding(8, 8):
            pass
    with budget.encoding(SIDE, 2 * SIDE):
        pass


def test_a_failure_frees_what_was_counted(pixels) -> None:
    budget = MemoryBudget(100, 99, 50)
    with fakes.fake_mimo(memory=budget, cache_images=0) as mimo, ThreadPoolExecutor(1) as pool:
        mimo.engines["vision_encoder"].failure = MemoryError()
        for _ in range(3):
            with pytest.raises(MemoryError):
                pool.submit(mimo.open, pixels).result()
        mimo.engines["vision_encoder"].failure = None
        assert mimo.open(pixels).ask("polyp").text


def test_the_limit_of_a_loaded_bundle_holds_for_its_images(bundle_folder) -> None:
    limit = required_mb(Bundle.open(bundle_folder)) + 1
    with Mimo.load(bundle_folder, threads=1, max_memory=limit) as mimo:
        mimo.open(np.zeros((64, 64, 3), np.uint8))
        with pytest.raises(MemoryLimitError, match=f"more than max_memory={limit}"):
            mimo.open(np.zeros((1024, 1024, 3), np.uint8))
