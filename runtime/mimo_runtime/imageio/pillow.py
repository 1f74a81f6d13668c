"""Pictures through Pillow: the formats that are accepted, and one frame, decoded and upright."""

from __future__ import annotations

import threading
import warnings
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ..errors import DamagedImageError, ImageError
from .image import check_size

#: Pillow plugins used. Everything else (EPS would start a program) is refused.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")

_OPENING = threading.Lock()
_EXIF_ORIENTATION = 0x0112


def open_picture(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Read the header. Raises ImageError for a damaged one, UnidentifiedImageError (an OSError) for an unknown format."""
    # Pillow warns about damaged TIFF tags on standard error; what cannot be read becomes an ImageError, the rest is fine.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\b")
    with _OPENING:
        # Pillow has a limit of its own that warns on standard error; ours is lower, names the size, and comes next.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise
        except Exception as error:  # a damaged header makes plugins raise nearly anything
            raise damaged(name, error) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def decode(image: Image.Image, name: str, frame: int) -> tuple[Image.Image, int]:
    """The chosen frame with its pixels loaded, upright, and the EXIF orientation that was applied (1: none)."""
    check_size(name, image.height, image.width)
    try:
        if frame:
            count = frame_count(image, name)
            if frame >= count:
                raise ImageError(f"{name} has no frame {frame}", f"Choose one of 0..{count - 1}")
            image.seek(frame)
            check_size(name, image.height, image.width)
        # Pillow turns TIFF while it loads and forgets the tag; of PNG it reads the tag after the pixels.
        before = _orientation(image) if image.format == "TIFF" else 1
        image.load()
    except ImageError:
        raise
    except Exception as error:  # damaged data makes decoders raise nearly anything
        raise damaged(name, error) from None
    try:
        orientation = max(before, _orientation(image))
        return ImageOps.exif_transpose(image), orientation
    except Exception:  # damaged EXIF data around good pixels: show them as they are
        return image, 1


def frame_count(image: Image.Image, name: str) -> int:
    """Number of frames. Raises ImageError for a damaged file."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception as error:  # Pillow walks through the headers of all frames
        raise damaged(name, error) from None


def frame_sizes(image: Image.Image, name: str) -> list[tuple[int, int]]:
    """``(height, width)`` of every frame as it is shown, upright. Raises ImageError for a damaged file."""
    sizes = []
    for frame in range(frame_count(image, name)):
        try:
            image.seek(frame)
        except Exception as error:  # as in decode
            raise damaged(name, error) from None
        turned = _orientation(image) > 4
        sizes.append((image.width, image.height) if turned else (image.height, image.width))
    return sizes


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF data
        return 1
    return orientation if orientation in range(1, 9) else 1


def damaged(name: str, error: Exception) -> DamagedImageError:
    return DamagedImageError(f"{name} is damaged or incomplete ({type(error).__name__})", "Export or download it again")
