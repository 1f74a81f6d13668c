"""What the sources have in common: finding files, reading images, names of classes and modalities."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mimo_runtime.errors import RequestError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.imageio.intensity import WINDOWS
from mimo_runtime.imageio.reader import read_image
from mimo_runtime.text.grammar import Description, clean_name
from mimo_runtime.utils.messages import few

#: A JSON object as read, before its fields are checked.
JsonObject = dict[str, object]

#: Suffixes of image files. DICOM files often have none, or the end of a UID; their content decides.
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".ppm", ".pgm", ".dcm", ".dicom",
            ".jpe", ".jfif", ".j2k", ".pbm", ".pnm", ".dib")  # fmt: skip


def class_name(name: str) -> str:
    """A class name with spaces: ``gall_bladder`` -> ``gall bladder``; without characters outside the grammar.

    May be empty.
    """
    return clean_name(name.replace("_", " ").encode("utf-8", "ignore").decode())  # without lone surrogates


def class_names(texts: Iterable[str], option: str = "--classes") -> dict[int, str]:
    """``("1=polyp,2=instrument", "3=clip")`` -> ``{1: "polyp", 2: "instrument", 3: "clip"}``.

    Raises:
        RequestError: not of this form, an id outside 1 to 65535, or an id twice.
    """
    names: dict[int, str] = {}
    for part in (p for text in texts for p in re.split(r",(?=\s*\d+\s*=)", text)):
        number, sign, name = part.partition("=")
        if not sign or not number.strip().isdecimal() or not class_name(name):
            raise RequestError(f"{option} '{part.strip()}' is not ID=NAME", f"Write it as {option} '1=polyp,2=instrument'")
        identity = int(number)
        if not 0 < identity < 65536:
            raise RequestError(f"{option}: the class id {identity} is out of range", "Use 1 to 65535; 0 is background")
        if identity in names:
            raise RequestError(f"{option} names class {identity} twice", "Name every class once")
        names[identity] = class_name(name)
    return names


def whole_number(value: object) -> int | None:
    """A whole number of at most 18 digits as files write it: 1, 1.0 or "1"; None for anything else, also for true and "01"."""
    if isinstance(value, str) and len(value) < 20 and re.fullmatch(r"0|[1-9][0-9]*", value.strip()):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 10**18 else None


def known_modality(text: str) -> str:
    """A modality as data sets write it: ``CT`` -> ``ct``, ``X-ray`` -> ``xray``; others as they are."""
    return Description(text).modality


def required_region(region: str | None) -> str:
    """The cleaned ``--region``. Raises RequestError if nothing is left."""
    cleaned = Description("", region or "").region
    if not cleaned:
        raise RequestError("the source has no body region", "Name it with --region, e.g. abdomen")
    return cleaned


def modality_of(option: str | None, scan: ScanImage, path: Path) -> str:
    """The modality of an image: that of ``--modality``, else that of the file.

    Raises:
        RequestError: there is neither.
    """
    modality = known_modality(option or "") or scan.modality
    if not modality:
        raise RequestError(f"{path} has no modality", "Name it with --modality, e.g. ultrasound")
    return modality


def read_source(path: Path, modality: str | None) -> ScanImage:
    """An image of a source, by the rule that a device applies with the model: values of CT by the window of CT.

    Args:
        modality: of ``--modality``, for files that do not state theirs.
    """
    return read_image(path, modality=known_modality(modality or ""), windows=WINDOWS)


def check_first(path: Path, modality: str | None) -> None:
    """Read one image before the long work, so that a missing option or reader is refused first."""
    modality_of(modality, read_source(path, modality), path)


#: First bytes of the picture formats that are read, for files with another suffix than theirs.
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF87a", b"GIF89a",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51",
)  # fmt: skip


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix, or by its content."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or head.startswith(_SIGNATURES) or head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def stem_of(name: str) -> str:
    """``name`` without the suffix of an image; UIDs keep their dots."""
    suffix = Path(name).suffix
    return name[: -len(suffix)] if suffix.lower() in SUFFIXES else name


def required_source(path: Path) -> None:
    """Refuse a source that does not exist, before its options are checked. Raises RequestError."""
    if not os.path.lexists(path):
        raise RequestError(f"the source {path} does not exist", "Name a file or folder that exists")


def required_folder(path: Path, what: str, remedy: str) -> Path:
    """``path`` if it is a folder. Raises RequestError."""
    if not path.is_dir():
        raise RequestError(f"{what} {path} is not a folder", remedy)
    return path


def find_images(root: Path, excluded: Path | None = None) -> tuple[dict[str, Path], int]:
    """All images below a folder: ``({relative path without suffix: file}, number of other files)``, hidden ones left out.

    Args:
        excluded: a folder whose images are left out, such as that of the masks.

    Raises:
        RequestError: two images differ only in the suffix, or the folder has none.
    """
    images: dict[str, Path] = {}
    others = 0
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        if not is_image(path):
            others += 1
            continue
        key = stem_of(relative.as_posix())
        if key in images:
            raise RequestError(f"{root} holds both {images[key].name} and {path.name}", "Keep one of them, or rename it")
        images[key] = path
    if not images:
        volumes = any(root.rglob("*.nii*"))
        remedy = "Import volumes with: mimo-train data import nnunet" if volumes else f"Use one of {' '.join(SUFFIXES)}"
        raise RequestError(f"{root} holds no image", remedy)
    if excluded is not None and excluded.resolve().is_relative_to(root.resolve()):
        images = {key: path for key, path in images.items() if not path.resolve().is_relative_to(excluded.resolve())}
    return images, others


def _is_file_name(text: str) -> bool:
    """Whether a system can have a file of this path: short enough, and without characters that no name has."""
    try:
        return "\0" not in text and max(map(len, re.split(rb"[\\/]", text.encode()))) <= 255 and len(text.encode()) < 4000
    except UnicodeEncodeError:
        return False


def inside(root: Path, value: object) -> Path | None:
    """The file that ``value`` names inside ``root``, or None if it is no such path: sources must not reach elsewhere."""
    if not isinstance(value, str) or not value or not _is_file_name(value):
        return None
    path = Path(value.replace("\\", "/"))
    is_absolute = path.is_absolute() or re.match(r"[A-Za-z]:", value) is not None  # also of Windows
    return None if is_absolute or ".." in path.parts else root / path


def missing_files(paths: Sequence[Path], option: str) -> None:
    """Raises RequestError that lists the first of the ``paths`` that are not there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise RequestError(f"{len(missing)} of {len(paths)} files do not exist: {few(missing)}", f"Check the folder: {option}")


def read_json(path: Path) -> object:
    """A JSON file. Raises RequestError if it is missing or not JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError(f"{path} is not JSON", "Export it again") from None


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark. Raises RequestError if it cannot be read."""
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise RequestError(f"{path} does not exist", "Check the path") from None
    except IsADirectoryError:
        raise RequestError(f"{path} is a folder", "Name a file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {type(error).__name__}", "Name a file of UTF-8 text") from None
