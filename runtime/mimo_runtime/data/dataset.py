"""Data sets on disk: a folder with ``dataset.jsonl``, images and masks.

One JSON object per line::

    {"image": "images/1.png", "mask": "masks/1.png", "case": "1", "split": "train", "modality": "ct", "region": "abdomen",
     "classes": {"6": "liver"}, "pixel_spacing_mm": [0.7, 0.7], "attributes": {}, "frame": 0, "instances": "instances/1.png"}

``image``, ``case``, ``split``, ``modality``, ``region`` and ``classes`` are required. The pixel value of the mask is the class
id, 0 is background. ``classes`` names the classes in this image; ``{}`` is a negative image, whose ``mask`` may be null or
missing. ``frame`` (or ``slice``) picks the image of a DICOM or NIfTI file. ``instances`` is a mask of instance ids.
``attributes.union``, e.g. ``{"1": [1, 2]}``, says that class 1 covers the pixels of ids 1 and 2: an optic disc and its cup.
``attributes.intensity_window`` is the centre and width of the window by which an importer made the grey values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import ImageError, RequestError
from ..imageio.image import ScanImage
from ..imageio.intensity import WINDOWS, GreyRule, Windows
from ..imageio.reader import read_image
from ..modalities import canonical

FILE_NAME = "dataset.jsonl"
SPLITS = ("train", "val", "test")
INTENSITY_WINDOW = "intensity_window"
_REQUIRED = ("image", "case", "split", "modality", "region", "classes")
_OPTIONAL = ("mask", "pixel_spacing_mm", "attributes", "frame", "slice", "instances")


@dataclass(frozen=True)
class Record:
    """One image with its truth; paths are absolute or relative to the working directory, as the set was opened."""

    set_name: str
    image: Path
    mask: Path | None
    case: str
    split: str
    modality: str
    region: str
    classes: dict[int, str]
    pixel_spacing_mm: tuple[float, float] | None = None  # row, column
    attributes: dict[str, object] = field(default_factory=dict)
    frame: int = 0
    instances: Path | None = None
    #: How values that are not 8 bit become grey: those of the model that gets the image; see ``Dataset.with_windows``.
    windows: Windows = field(default_factory=lambda: WINDOWS)

    @property
    def intensity_window(self) -> tuple[float, float] | None:
        """The window that the importer applied to the image, by ``attributes``; None if it names none.

        Raises:
            RequestError: it is not two numbers, the second above 0.
        """
        value = self.attributes.get(INTENSITY_WINDOW)
        if value is None:
            return None
        try:
            return GreyRule(window=value).window  # type: ignore[arg-type]  # it is checked there
        except ImageError as error:
            raise RequestError(f"{self.image}: attribute {INTENSITY_WINDOW}: {error.what}", error.remedy) from None

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Read image and mask.

        Returns:
            ``(pixels, labels)``: uint8 ``[H, W, 3]`` and int32 ``[H, W]`` of class ids (zeros without a mask).

        Raises:
            RequestError: a file is missing or unreadable, sizes differ, or the mask holds ids that ``classes`` lacks.
        """
        pixels = read_image(self.image, frame=self.frame, modality=self.modality, windows=self.windows).pixels
        shape = pixels.shape[:2]
        if self.mask is None:
            return pixels, np.zeros(shape, np.int32)
        labels = read_ids(self.mask, shape, self.image)
        present = np.flatnonzero(np.bincount(labels.reshape(-1)))
        unknown = [int(v) for v in present if v and int(v) not in self.classes]
        if unknown:
            raise RequestError(f"{self.mask} holds class ids {unknown} without a name", f"Name them in {FILE_NAME}: classes")
        return pixels, labels

    def whole_class(self, labels: np.ndarray, class_id: int) -> np.ndarray:
        """The full extent of a class: bool ``[H, W]`` of class ids ``[H, W]``. See ``attributes.union``."""
        union = self.attributes.get("union")
        ids = union.get(str(class_id)) if isinstance(union, dict) else None
        return np.isin(labels, ids) if ids else labels == class_id

    def image_of(self, pixels: np.ndarray) -> ScanImage:
        """Pixels uint8 ``[H, W, 3]`` of this record as an image with its modality and pixel spacing."""
        return ScanImage(pixels, self.pixel_spacing_mm, canonical(self.modality))

    def load_instances(self, shape: tuple[int, int]) -> np.ndarray | None:
        """Instance ids int32 ``[H, W]``, or None if the record has none.

        Args:
            shape: ``(H, W)`` of the image.

        Raises:
            RequestError: the file is unreadable or of another size.
        """
        return None if self.instances is None else read_ids(self.instances, shape, self.image)


@dataclass(frozen=True)
class Dataset:
    name: str
    root: Path
    records: tuple[Record, ...]

    @staticmethod
    def read(path: str | Path) -> Dataset:
        """Read the set in folder ``path`` (its name is the folder's name).

        Raises:
            RequestError: names the file and line of the first flaw.
        """
        root = Path(path)
        listing = root / FILE_NAME
        try:
            lines = listing.read_text("utf-8").splitlines()
        except FileNotFoundError:
            raise RequestError(f"{listing} does not exist", f"Point to a folder with {FILE_NAME}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"{listing} cannot be read: {type(error).__name__}", "Write it as UTF-8 text") from None
        name = root.resolve().name
        records = tuple(_record(line, name, root, f"{listing}:{i}") for i, line in enumerate(lines, 1) if line.strip())
        if not records:
            raise RequestError(f"{listing} lists no image", "Write one JSON object per line")
        split_of: dict[str, str] = {}
        for record in records:
            if split_of.setdefault(record.case, record.split) != record.split:
                raise RequestError(f"{listing}: one case is in two splits", "Keep all images of a case in one split")
        return Dataset(name, root, records)

    def split(self, name: str) -> list[Record]:
        """The records of one split."""
        return [record for record in self.records if record.split == name]

    def with_windows(self, windows: Windows) -> Dataset:
        """The same set, its DICOM, NIfTI and 16-bit images read by the windows of a model."""
        return replace(self, records=tuple(replace(record, windows=windows) for record in self.records))

    def key(self, record: Record) -> str:
        """What names a record within the set: its image's path, and the frame where a file may hold several."""
        path = record.image.relative_to(self.root).as_posix()
        return f"{path}#{record.frame}" if record.frame else path

    @property
    def class_names(self) -> list[str]:
        """All class names of the set, sorted."""
        return sorted({name for record in self.records for name in record.classes.values()})


def read_datasets(paths: str | Path | Iterable[str | Path]) -> list[Dataset]:
    """Read the sets at ``paths``: each is a set, or a folder whose subfolders are sets (in name order).

    Raises:
        RequestError: a path holds no set, a set is flawed, or two sets have the same name.
    """
    sets: list[Dataset] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        root = Path(path)
        if (root / FILE_NAME).is_file():
            sets.append(Dataset.read(root))
            continue
        inner = sorted(p.parent for p in root.glob(f"*/{FILE_NAME}"))
        if not root.exists():
            raise RequestError(f"data set {root} does not exist", "Check the path")
        if not inner:
            raise RequestError(f"{root} holds no data set", f"Point to a folder with {FILE_NAME}, or to its parent")
        sets.extend(Dataset.read(folder) for folder in inner)
    names = [s.name for s in sets]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise RequestError(f"two data sets are called {twice[0]}", "Rename one of the folders, or give it once")
    return sets


def with_windows(datasets: Iterable[Dataset], windows: Windows) -> list[Dataset]:
    """The sets as :meth:`Dataset.with_windows` gives them."""
    return [data.with_windows(windows) for data in datasets]


def for_model(datasets: Iterable[Dataset], model: object) -> list[Dataset]:
    """The sets, read by the windows of a model (``Mimo.windows``); by the usual ones for a model that has none."""
    return with_windows(datasets, getattr(model, "windows", WINDOWS))


def stated_windows(datasets: Iterable[Dataset]) -> dict[str, dict[tuple[float, float], str]]:
    """By modality, the windows that importers applied, each with the name of the first set that has it.

    Raises:
        RequestError: as ``Record.intensity_window``.
    """
    stated: dict[str, dict[tuple[float, float], str]] = {}
    for record in (record for data in datasets for record in data.records):
        if (window := record.intensity_window) is not None:
            stated.setdefault(record.modality.lower(), {}).setdefault(window, record.set_name)
    return stated


def other_windows(datasets: Iterable[Dataset], windows: Windows) -> list[str]:
    """For each set that was imported with another window than the model's, a sentence that says so."""
    return [
        f"the {modality} images of {name} were imported with the window {window[0]:g}/{window[1]:g}, the model has "
        + ("{:g}/{:g}".format(*windows[modality]) if modality in windows else "none")
        for modality, stated in stated_windows(datasets).items()
        for window, name in stated.items()
        if windows.get(modality) != window
    ]


def check_records(records: Iterable[Record]) -> None:
    """Read all files of some records once, so that a damaged one is reported before hours of work.

    Raises:
        RequestError: as :meth:`Record.load`, or the instance map is unreadable or of another size.
    """
    for record in records:
        _, labels = record.load()
        record.load_instances(labels.shape)


def _record(line: str, set_name: str, root: Path, where: str) -> Record:
    """One line, checked."""

    def wrong(what: str, remedy: str) -> RequestError:
        return RequestError(f"{where}: {what}", remedy)

    try:
        data = json.loads(line)
    except ValueError:
        raise wrong("not JSON", "Write one JSON object per line") from None
    if not isinstance(data, dict):
        raise wrong("not a JSON object", "Write one JSON object per line")
    missing = [k for k in _REQUIRED if k not in data]
    unknown = sorted(set(data) - set(_REQUIRED) - set(_OPTIONAL))
    if missing:
        raise wrong(f"field {missing[0]} is missing", f"Every line has {', '.join(_REQUIRED)}")
    if unknown:
        raise wrong(f"unknown field {unknown[0]}", "Put additional facts into attributes")
    for key in ("case", "split", "modality", "region"):
        if not isinstance(data[key], str) or not data[key]:
            raise wrong(f"field {key} is not a text", "Write it in quotes")
    if data["split"] not in SPLITS:
        raise wrong(f"split '{data['split']}' is unknown", f"Use one of {', '.join(SPLITS)}")

    def file(key: str) -> Path | None:
        value = data.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value or Path(value).is_absolute() or ".." in Path(value).parts:
            raise wrong(f"field {key} is not a path inside the set", "Write it relative to the folder")
        if not (root / value).is_file():
            raise wrong(f"{key} {value} does not exist", "Restore the file or remove the line")
        return root / value

    image, mask, parts = file("image"), file("mask"), file("instances")
    if image is None:
        raise wrong("field image is null", "Name an image")
    classes = data["classes"]
    if not isinstance(classes, dict) or not all(isinstance(v, str) and v.strip() for v in classes.values()):
        raise wrong("field classes is not an object of id and name", 'Write it as {"1": "polyp"}')
    if not all(k.isdecimal() and 0 < int(k) < 65536 for k in classes):
        raise wrong("a class id is not a number from 1 to 65535", 'Write it as {"1": "polyp"}')
    if classes and mask is None:
        raise wrong("classes without a mask", "Name the mask, or leave classes empty")
    spacing = data.get("pixel_spacing_mm")
    if spacing is not None and not (
        isinstance(spacing, list) and len(spacing) == 2 and all(isinstance(v, (int, float)) and 0 < v < 1e4 for v in spacing)
    ):
        raise wrong("pixel_spacing_mm is not two lengths", "Write row and column spacing in millimetres, or leave it out")
    frame = data.get("frame", data.get("slice", 0))
    if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0 or ("frame" in data and "slice" in data):
        raise wrong("frame or slice is not one index", "Write one of them, counted from 0")
    attributes = data.get("attributes") or {}
    if flaw := _flaw_of_attributes(attributes, classes):
        raise wrong(*flaw)
    return Record(
        set_name, image, mask, data["case"], data["split"], data["modality"], data["region"],
        {int(k): v.strip() for k, v in classes.items()},
        None if spacing is None else (float(spacing[0]), float(spacing[1])), attributes, frame, parts,
    )  # fmt: skip


def _flaw_of_attributes(attributes: object, classes: dict[str, str]) -> tuple[str, str] | None:
    """Problem and remedy; None for good attributes."""
    if not isinstance(attributes, dict):
        return "attributes is not an object", "Write it as {}"
    union = attributes.get("union", {})
    is_union = isinstance(union, dict) and all(
        key in classes and isinstance(ids, list) and ids and all(type(i) is int and 0 < i < 65536 for i in ids)
        for key, ids in union.items()
    )
    return None if is_union else ("attributes.union is not an object of class id and ids", 'Write it as {"1": [1, 2]}')


def read_ids(path: Path, shape: tuple[int, int] | None, image: Path) -> np.ndarray:
    """An image of whole numbers as int32 ``[H, W]``, of the size of ``image``, where ``shape`` tells that."""
    try:
        with Image.open(path) as file:
            values = np.array(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RequestError(f"{path} cannot be read: {type(error).__name__}", "Save the mask as PNG") from None
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise RequestError(f"{path} is not a mask of one channel of whole numbers", "Save class ids as a grey PNG")
    if shape is not None and values.shape != shape:
        raise RequestError(
            f"{path} is {values.shape[1]}x{values.shape[0]}, {image.name} is {shape[1]}x{shape[0]}",
            "Save the mask at the size of the image",
        )
    return values.astype(np.int32)
