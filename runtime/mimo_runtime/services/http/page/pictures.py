"""Pictures of stored images as people see them, with a window of their choice; the model does not run."""

from __future__ import annotations

import numpy as np

from ....imageio.image import ScanImage
from ....imageio.png import png_bytes
from ....imageio.reader import read_image
from ...host import Served
from ...store import Reading, StoredImage

#: Share of the values that a window without a stated one leaves out at either end, in percent.
_CUT = 0.5


def picture_of(served: Served, stored: StoredImage, reading: Reading) -> tuple[bytes, dict[str, str]]:
    """PNG of a frame, and the header ``X-Window`` with centre and width of its grey values.

    Raises:
        ImageError: the file or its frame cannot be read.
    """
    image = read_image(
        stored.data, frame=reading.frame, modality=reading.modality, window=reading.window,
        windows=served.mimo.windows, name="the image",
    )  # fmt: skip
    window = shown_window(image)
    return png_bytes(image.pixels), {} if window is None else {"X-Window": f"{window[0]:.6g},{window[1]:.6g}"}


def shown_window(image: ScanImage) -> tuple[float, float] | None:
    """Centre and width of the values that the picture shows; None for colours and for pictures without values of their own."""
    if image.window is not None or image.values is None:
        return image.window
    values = image.values.within(np.ones(image.pixels.shape[:2], bool))
    if not values.size:
        return None
    low, high = np.percentile(values, [_CUT, 100 - _CUT])
    return float(low + high) / 2, max(float(high - low), 1e-6)
