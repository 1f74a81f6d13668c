"""Masks from files: the one reader for ``--mask``, golden samples and every importer.

- ``read_mask(source, image) -> bool [H, W]``: one structure, true inside, on the pixels of its image; notes are warnings.
- ``read_mask_file(source, frame=0, ignore="auto") -> MaskFile``: the upright values, what has no annotation (``void``), the
  EXIF orientation that was applied, and notes for people. ``MaskFile.inside(threshold)`` and ``MaskFile.labels()`` give one
  structure and class ids; ``MaskFile.fitted(scan)`` gives the mask on the pixels of its image.

Rules, the same for a structure and for class ids:

- The EXIF (or TIFF) orientation is applied, as to images. A mask without the tag, of the size of the stored pixels of an image
  that the reader turned by a quarter, was drawn on the stored pixels: ``fitted`` turns it like the image. For half turns and
  mirror images the size says nothing: such a mask counts as drawn on the upright image, and a note says so.
- Palettes count by index; a palette of greys whose entry 0 is not black counts by grey value.
- Alpha: fully transparent pixels are 0. If all visible pixels are black and some are transparent, alpha itself is the mask.
- 255 is "void" (Pascal VOC, Cityscapes: not annotated) where the other values above 0 are ids from 1 without a gap, or in a
  palette ids below 255. Lossy files have no void. Void is outside of a structure, and 0 in class ids.
- JPEG blurs edges: a mask that reaches 128 is inside above 127.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass, replace
from typing import BinaryIO, Union

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError
from .files import open_file, short_name
from .image import ScanImage, check_frame, check_size
from .pillow import decode, frame_count, open_picture

Source = Union[str, "os.PathLike[str]", bytes, Image.Image]
_VOID = 255
_TRANSPOSED = (5, 6, 7, 8)
_HALF = 127


@dataclass(frozen=True, eq=False)
class MaskFile:
    """A mask as it is stored, upright.

    Args:
        name: how messages call it.
        values: whole or real numbers ``[H, W]``, or colours ``uint8 [H, W, 3]``; 0 where transparent or void.
        void: bool ``[H, W]``, true where there is no annotation; None if there is no such pixel.
        orientation: EXIF orientation that was applied, 1 if none.
        is_blurred: whether the values of edges are blurred by lossy compression.
        notes: what was done beyond reading, for people. Empty for ordinary masks.
    """

    name: str
    values: np.ndarray
    void: np.ndarray | None = None
    orientation: int = 1
    is_blurred: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_colour(self) -> bool:
        return self.values.ndim == 3

    def inside(self, threshold: float = 0) -> np.ndarray:
        """bool ``[H, W]``: true where a value (of colours: the largest channel) is above ``threshold``.

        For 0, real numbers below 0 are inside too, and a lossy file counts as the module says.
        """
        values = self.values.max(axis=2) if self.is_colour else self.values
        if threshold:
            return np.asarray(values > threshold)
        if self.is_blurred and values.max() > _HALF:
            return np.asarray(values > _HALF)
        return np.asarray(values != 0)

    def labels(self) -> np.ndarray:
        """Class ids, int32 ``[H, W]``, 0 to 65535.

        Raises:
            ImageError: colours, fractions or negative numbers.
        """
        values = self.values
        if values.ndim == 3:
            if not (values == values[..., :1]).all():
                raise ImageError(f"{self.name} holds colours, not class ids", "Save class ids as a grey or palette PNG")
            values = values[..., 0]
        whole = values.dtype.kind in "bui" or bool(np.isfinite(values).all() and (values == np.rint(values)).all())
        if not whole or values.min() < 0 or values.max() > 65535:
            what = f"{self.name} holds values that are no class ids"
            raise ImageError(what, "Save class ids from 0 to 65535 as a grey PNG")
        return values.astype(np.int32)

    def distinct(self) -> np.ndarray:
        """The values above 0, ascending: ``[N]``, or colours ``[N, 3]``."""
        return np.unique(self.values[self.inside()], axis=0)

    def fitted(self, scan: ScanImage) -> MaskFile:
        """The mask on the upright pixels of its image, where file and image state different orientations.

        The size is not checked: a mask that fits in no orientation stays as it is.
        """
        size, here, other = (scan.height, scan.width), self.orientation, scan.orientation
        if here == other or here != 1 and other != 1:
            return self
        # One of them states an orientation, the other none. Only sizes that a quarter turn exchanges can tell.
        back = {6: 8, 8: 6}.get(here, here)
        turn = other if here == 1 else back
        stored = self.values.shape[:2]
        if turn in _TRANSPOSED and stored == size[::-1] and stored != size:
            void = None if self.void is None else upright(self.void, turn)
            note = "turned like its image" if here == 1 else "not turned: its image states no orientation"
            return replace(self, values=upright(self.values, turn), void=void, orientation=other, notes=(*self.notes, note))
        note = "the image is turned by EXIF, the mask states no orientation: taken as drawn on the upright image"
        note = note if here == 1 else "the mask is turned by EXIF, its image states no orientation"
        return replace(self, notes=(*self.notes, note))


def read_mask(source: Source, image: ScanImage | None = None) -> np.ndarray:
    """Read a mask picture: ``bool [H, W]``, true inside the structure.

    Inside is where the value is not 0. Palette pictures count by index, colour pictures by "not black"; what is fully
    transparent or not annotated (255 beside class ids) is outside. The EXIF orientation is applied.

    Args:
        source: a path, the bytes of a file, or a PIL image.
        image: the image that the mask belongs to. The mask is turned as its image was. What is assumed or changed is a
            ``UserWarning``, e.g. that a mask without EXIF orientation counts as drawn on the upright picture.

    Raises:
        ImageError: as ``read_image``.
    """
    mask = read_mask_file(source)
    if image is None:
        return mask.inside()
    fitted = mask.fitted(image)
    for note in fitted.notes:
        warnings.warn(f"{mask.name}: {note}", UserWarning, stacklevel=2)
    return fitted.inside()


def read_mask_file(source: Source, frame: int = 0, ignore: int | str | None = "auto") -> MaskFile:
    """Read a mask picture, or one slice of a NIfTI volume of labels. The content decides, not the name.

    Args:
        source: a path, the bytes of a file, or a PIL image.
        frame: as for ``read_image``; a picture of one frame ignores it.
        ignore: value of pixels without annotation; "auto" as the module says; None if every value is a class.

    Raises:
        ImageError: missing, damaged or unsupported file, no such frame, or a size outside the limits.
    """
    check_frame(frame)
    if isinstance(source, Image.Image):
        return _of_picture(source, "the mask", frame, ignore)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _of_file(io.BytesIO(source), "the mask", frame, ignore)
    with open_file(source) as file:
        return _of_file(file, short_name(source), frame, ignore)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels ``[H, W, ...]`` as an EXIF orientation (1 to 8) shows them."""
    if orientation in _TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    # The sides of the picture where the (transposed) first row and column lie.
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::down, ::across])


# -- reading ---------------------------------------------------------------------------------------------------------


def _of_file(file: BinaryIO, name: str, frame: int, ignore: int | str | None) -> MaskFile:
    from .nifti import is_nifti, read_values

    head = file.read(540)
    file.seek(0)
    if is_nifti(head, file):
        plane = read_values(file, name, frame)
        return _finished(MaskFile(name, plane.values), ignore, from_palette=False)
    try:
        return _of_picture(open_picture(file, name), name, frame, ignore)
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture that can be read", "Use a PNG file as mask") from None


def _of_picture(image: Image.Image, name: str, frame: int, ignore: int | str | None) -> MaskFile:
    is_blurred = image.format == "JPEG"
    frame = frame if frame and frame_count(image, name) > 1 else 0  # one mask for every frame
    image, orientation = decode(image, name, frame)
    values, notes = _values(image)
    is_palette = image.mode in ("P", "PA")
    if orientation != 1:
        notes.append("turned upright by EXIF")
    mask = MaskFile(name, values, None, orientation, is_blurred, tuple(notes))
    if is_blurred and values.max() > _HALF and ((values > 0) & (values <= _HALF)).any():
        mask = replace(mask, notes=(*mask.notes, "edges blurred by JPEG: inside is above 127"))
    return _finished(mask, ignore, is_palette)


def _values(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """Numbers ``[H, W]`` or colours ``[H, W, 3]``, 0 where transparent."""
    mode, notes = image.mode, list[str]()
    has_alpha = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    alpha = np.asarray(image.convert("RGBA"))[..., 3] if has_alpha else None
    if mode in ("P", "PA"):
        values = np.asarray(image) if mode == "P" else np.asarray(image)[..., 0]
        grey = _grey_palette(image, values)
        if grey is not None:
            values = grey
            notes.append("palette counted by grey value")
    elif mode in ("LA", "La"):
        values = np.asarray(image.convert("LA"))[..., 0]
    elif mode in ("1", "L", "F") or mode.startswith("I"):
        values = np.asarray(image)
    else:
        values = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))[..., :3]
    if alpha is None or alpha.min() > 0 and values.any():
        return values, notes
    visible = alpha > 0
    shown = values * (visible if values.ndim == 2 else visible[..., None]).astype(values.dtype)
    if not values[visible].any() and 0 < visible.sum() < visible.size and mode not in ("P", "PA"):
        notes.append("alpha is the mask")
        return alpha, notes
    return shown, notes


def _grey_palette(image: Image.Image, indices: np.ndarray) -> np.ndarray | None:
    """Grey values of a palette of greys whose entry 0 is not black but another used one is; else None."""
    table = np.array(image.getpalette("RGB") or [0, 0, 0], np.uint8).reshape(-1, 3)
    used = np.unique(indices)
    if 0 not in used or used.max() >= len(table) or not table[0].any():
        return None
    colours = table[used]
    if not (colours == colours[:, :1]).all() or colours.any(axis=1).all():
        return None
    return np.asarray(table[:, 0][indices])


def _finished(mask: MaskFile, ignore: int | str | None, from_palette: bool) -> MaskFile:
    """The mask with its void separated."""
    check_size(mask.name, *mask.values.shape[:2])
    values = mask.values
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    if ignore == "auto":
        ignore = _VOID if values.ndim == 2 and not mask.is_blurred and _has_void(values, from_palette) else None
    if ignore is None or values.ndim == 3:
        return mask
    void = values == ignore
    if not void.any():
        return mask
    kept = np.where(void, 0, values).astype(values.dtype)
    return replace(mask, values=kept, void=void, notes=(*mask.notes, f"value {ignore} counted as not annotated"))


def _has_void(values: np.ndarray, from_palette: bool) -> bool:
    distinct = np.unique(values)
    if distinct[-1] != _VOID or values.dtype.kind not in "ui":
        return False
    ids = distinct[(distinct > 0) & (distinct < _VOID)]
    return bool(ids.size) and (from_palette or ids.size == ids[-1] and ids[-1] < _VOID - 1)
