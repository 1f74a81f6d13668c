"""The image type of the package: 8-bit RGB pixels, their spacing and their source."""

from __future__ import annotations

import hashlib
import itertools
from copy import copy as copy_of
from dataclasses import InitVar, dataclass, field, replace

import numpy as np

from ..errors import ImageError
from .geometry import ImageGeometry, ImageSource, ModalityValues

#: Limits of an image, checked from the header, before decoding. The largest needs 192 MB as RGB.
MIN_SIDE, MAX_SIDE, MAX_PIXELS = 8, 16384, 64_000_000

_NUMBERS = itertools.count()


@dataclass(frozen=True, eq=False)
class ScanImage:
    """An image as the model and the pictures use it.

    Args:
        pixels: ``uint8 [H, W, 3]`` RGB.
        spacing_mm: distance of neighbouring pixels in millimetres as ``(row, column)``, that is ``(down, across)``;
            None if the file does not say.
        modality: as data sets write it ("ct", "mri", "ultrasound", "xray", ...), None if the file does not say.
        bits: how the values became 8 bit, for people.
        spacing_source: where ``spacing_mm`` comes from, and whether it holds in the patient; None without spacing.
        orientation: EXIF orientation (1 to 8) that the reader applied to the stored pixels; 1 is none.
        source: where the image was read from; None for an image that was made in memory.
        geometry: where it lies; by default, its spacing alone.
        values: the values behind the grey levels; None for colours and for pictures without values of their own.
        window: (centre, width) of the window that the caller or the modality named and that made the grey values; None if they
            became 8 bit otherwise.
        copy: False shares the array instead of copying it. The caller then promises not to change it.

    ``pixels`` is read-only afterwards.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    modality: str | None = None
    bits: str = "8 bit as stored"
    spacing_source: str | None = None
    orientation: int = 1
    source: ImageSource | None = None
    geometry: ImageGeometry = ImageGeometry()  # noqa: RUF009 - frozen
    values: ModalityValues | None = None
    window: tuple[float, float] | None = None
    copy: InitVar[bool] = True
    #: Whether the caller may still change ``pixels``.
    is_shared: bool = field(init=False, default=False)

    def __post_init__(self, copy: bool) -> None:
        pixels = self.pixels
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ImageError("ScanImage.pixels is not uint8 [H, W, 3]", "Call read_image to convert it")
        check_size("the image", *pixels.shape[:2])
        pixels = np.ascontiguousarray(pixels)
        # A caller's array may be a buffer that changes; what ascontiguousarray made belongs to this image.
        is_callers = np.may_share_memory(pixels, self.pixels)
        pixels = pixels.copy() if copy and is_callers else pixels.view()
        object.__setattr__(self, "is_shared", is_callers and not copy and self.pixels.flags.writeable)
        pixels.flags.writeable = False
        object.__setattr__(self, "pixels", pixels)
        if self.spacing_mm is not None and self.geometry.spacing_mm is None and not self.geometry.regions:
            object.__setattr__(self, "geometry", replace(self.geometry, spacing_mm=self.spacing_mm))

    @staticmethod
    def of_new(
        pixels: np.ndarray,
        spacing_mm: tuple[float, float] | None = None,
        modality: str | None = None,
        bits: str = "8 bit as stored",
        spacing_source: str | None = None,
        orientation: int = 1,
        *,
        source: ImageSource | None = None,
        geometry: ImageGeometry | None = None,
        values: ModalityValues | None = None,
        window: tuple[float, float] | None = None,
    ) -> ScanImage:
        """Of an array that the reader made itself: it is not copied, because no other code can change it."""
        pixels.flags.writeable = False
        where = geometry or ImageGeometry(spacing_mm)
        return ScanImage(
            pixels, spacing_mm, modality, bits, spacing_source, orientation, source, where, values, window, copy=False
        )  # fmt: skip

    def with_source(self, source: ImageSource) -> ScanImage:
        """The same image with its ``source``, where it was read from."""
        image = copy_of(self)
        object.__setattr__(image, "source", source)
        return image

    @property
    def height(self) -> int:
        size: int = self.pixels.shape[0]
        return size

    @property
    def width(self) -> int:
        size: int = self.pixels.shape[1]
        return size

    @property
    def sha256(self) -> str:
        """Hexadecimal hash of size and pixels: equal exactly if the model sees the same image."""
        digest = hashlib.sha256(f"{self.height}x{self.width}:".encode())
        digest.update(self.pixels.data)
        return digest.hexdigest()

    @property
    def cache_key(self) -> str:
        """The hash; for a shared array with a number of its own, so that no other image gets its features."""
        return f"{self.sha256} {next(_NUMBERS)}" if self.is_shared else self.sha256


def check_size(name: str, height: int, width: int) -> None:
    """Refuse sizes outside the limits. Raises ImageError."""
    message = f"{name} has {width} x {height} pixels"
    if min(height, width) < MIN_SIDE:
        raise ImageError(message, f"Each side needs at least {MIN_SIDE} pixels")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        limits = f"Crop or shrink it to at most {MAX_SIDE} pixels a side and {MAX_PIXELS // 10**6} million in all"
        raise ImageError(message, limits)


def check_frame(frame: object) -> None:
    """Refuse what does not count frames. Raises ImageError."""
    if isinstance(frame, bool) or not isinstance(frame, (int, np.integer)) or frame < 0:
        raise ImageError(f"the frame is {frame!r}"[:80], "Give a whole number from 0")
