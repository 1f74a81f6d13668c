"""The model's configuration: what training writes, export reads and the bundle carries.

Plain frozen dataclasses, because the runtime depends on few packages. ``MimoConfig.from_dict`` is strict: an unknown
or missing field is an error that names it, so that a checkpoint of another version is never half understood.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

from ..errors import BundleError, RequestError
from ..utils.deprecation import warn_renamed_fields
from ..utils.messages import few, short
from ..utils.untyped import Untyped
from .calibrated import ContourCalibration, IntensityWindow, PresenceCalibration
from .parts import FusionConfig, MaskDecoderConfig, PromptConfig, TextConfig, TextDecoderConfig, VisionConfig
from .presets import PRESET_FIELDS

__all__ = [
    "FORMAT_VERSION", "MAX_PARAMETERS", "OLDEST_VERSION", "PRESETS", "ContourCalibration", "FusionConfig", "IntensityWindow",
    "MaskDecoderConfig", "MimoConfig", "PresenceCalibration", "PromptConfig", "TextConfig", "TextDecoderConfig", "VisionConfig",
]  # fmt: skip

_Part = TypeVar("_Part")

#: Raised whenever the meaning of a field or the layout of the weights changes.
FORMAT_VERSION = 10

#: Oldest version that can be read.
OLDEST_VERSION = 5
#: Fields that a version added, with their value in files of earlier versions.
_ADDED: dict[int, dict[str, object]] = {
    6: {"first_share": 0.0},
    7: {"entity_regions": []},
    9: {
        "windows": [{"modality": "ct", "center": 40.0, "width": 400.0}],
        "contours": [], "coverage": 0.9, "presence_calibration": [], "miss_rate": 0.05, "entity_modalities": [],
    },
}  # fmt: skip
#: Fields that a version renamed, old name to new name.
_RENAMED: dict[int, dict[str, str]] = {8: {"closer_factor": "crop_scale", "first_share": "full_image_weight"}}
#: Fields that a version added to the objects of a list, as ``_ADDED``.
_ADDED_TO_ENTRIES: dict[int, dict[str, dict[str, object]]] = {10: {"contours": {"min_score": 0.0}}}

#: A model of more weights than this is refused before anything is allocated. The preset "large" has half a thousand million.
MAX_PARAMETERS = 4_000_000_000

#: What a file may say. The mask threshold is a probability whose logit is finite.
_RANGES: dict[str, tuple[float, float]] = {
    "presence_threshold": (0.0, 1.0),
    "presence_temperature": (1e-3, 1e3),
    "entity_threshold": (0.0, 1.0),
    "abstain_threshold": (0.0, 1.0),
    "mask_threshold": (1e-6, 1 - 1e-6),
    "crop_scale": (0.0, 20.0),
    "full_image_weight": (0.0, 1.0),
    "coverage": (0.5, 0.999), "miss_rate": (0.001, 0.5), "absent_below": (0.0, 1.0), "cases": (0, 10_000_000),
    "min_score": (0.0, 1.0),
    "inner": (0.0, 100.0), "outer": (0.0, 100.0), "center": (-1e6, 1e6), "width": (1e-6, 1e6),
    "mlp_ratio": (1e-3, 1e3),
    # A table of the window's fourth power belongs to every block.
    "window": (1, 32), "depths": (1, 256), "layers": (1, 256), "heads": (1, 512), "levels": (1, 3), "upsample": (1, 8),
    "image_size": (64, 8192), "max_length": (1, 8192), "max_boxes": (1, 1024), "max_points": (1, 1024), "queries": (1, 65536),
}  # fmt: skip
#: Fields that are lists of objects.
_ENTRIES: dict[str, type[IntensityWindow] | type[ContourCalibration] | type[PresenceCalibration]] = {
    "windows": IntensityWindow, "contours": ContourCalibration, "presence_calibration": PresenceCalibration,
}  # fmt: skip
#: Whole numbers without a range of their own.
_COUNTS = (1, 10_000_000)


@dataclass(frozen=True)
class MimoConfig:
    """Everything that fixes the shape of the model and the meaning of its outputs."""

    #: Name of the preset that the configuration started from.
    preset: str = "tiny"
    #: Side of the square model input in pixels; a multiple of 32.
    image_size: int = 256
    #: Tokens of the tokenizer.
    vocab_size: int = 1024
    #: Width of fusion, mask decoder and text decoder.
    dim: int = 160
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    text_decoder: TextDecoderConfig = field(default_factory=TextDecoderConfig)
    #: Names of the structures that have a mask query of their own, in query order (query ``1 + index``).
    entities: tuple[str, ...] = ()
    #: Body regions, in lower case, in which the training data looked for each entity, in the same order: elsewhere it is absent
    #: for sure. Empty if unknown.
    entity_regions: tuple[tuple[str, ...], ...] = ()
    #: Modalities in which the training data marks each entity, in the same order. Empty if unknown.
    entity_modalities: tuple[tuple[str, ...], ...] = ()
    #: Modalities of the training images, as data sets name them; empty if unknown.
    modalities: tuple[str, ...] = ()
    #: A target is present if ``sigmoid(logit / presence_temperature) >= presence_threshold``; chosen on ``val``.
    presence_threshold: float = 0.5
    #: Divides the logit of presence, so that probabilities are calibrated; chosen on ``val``.
    presence_temperature: float = 1.0
    #: An entity that the request does not name is a finding if its presence is at least this; chosen on ``val``.
    entity_threshold: float = 0.5
    #: A finding is ``confident`` if its score is at least this; chosen on ``val`` for a wanted risk. 0 doubts nothing.
    abstain_threshold: float = 0.0
    #: A pixel belongs to a mask if its probability is at least this.
    mask_threshold: float = 0.5
    #: The crop pass segments a small target again on a square crop of this many times its longer side; 0 disables the pass.
    #: Chosen on ``val``, for a model that was trained on crops (``mimo-train fit --crop-views``).
    crop_scale: float = 0.0
    #: Weight of the full-image pass in the logits of a mask from the crop pass, 0 to 1. Chosen on ``val``.
    full_image_weight: float = 0.0
    #: How values of a modality with a unit become grey, in training and on the device. Other modalities go by percentiles.
    windows: tuple[IntensityWindow, ...] = (IntensityWindow(),)
    #: Inner and outer contours, by structure and kind of prompt; empty: findings have none. Chosen on ``val``.
    contours: tuple[ContourCalibration, ...] = ()
    #: Share of the masks for which each contour of ``contours`` holds.
    coverage: float = 0.9
    #: The presence below which a structure is called absent, by structure; empty: no rate is stated. Chosen on ``val``.
    presence_calibration: tuple[PresenceCalibration, ...] = ()
    #: Share of present structures that fall below the thresholds of ``presence_calibration``.
    miss_rate: float = 0.05
    #: Version of ``config.json``.
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.image_size % 32 or self.image_size < 64:
            raise RequestError(f"image_size is {self.image_size}", "Use a multiple of 32 of at least 64")
        if len(self.entities) > self.mask_decoder.queries - 1:
            raise RequestError(
                f"{len(self.entities)} entities do not fit {self.mask_decoder.queries} mask queries",
                f"Set mask_decoder.queries to at least {len(self.entities) + 1}",
            )
        for name, lists in (("regions", self.entity_regions), ("modalities", self.entity_modalities)):
            if lists and len(lists) != len(self.entities):
                message = f"{len(lists)} entity_{name} for {len(self.entities)} entities"
                raise RequestError(message, f"Give one list of {name} per entity, or none at all")
        if {len(self.vision.depths), len(self.vision.heads), len(self.vision.neck)} != {4}:
            raise RequestError("vision.depths, vision.heads and vision.neck need four entries", "Give one per stage")
        if self.vision.neck[2] != self.dim or self.vision.neck[3] != self.dim:
            raise RequestError("vision.neck[2] and vision.neck[3] must equal dim", f"Set both to {self.dim}")
        for part in ("fusion", "mask_decoder", "text_decoder"):
            if self.dim % getattr(self, part).heads:
                raise RequestError(f"{part}.heads does not divide dim {self.dim}", "Choose a divisor")
        if any(width % heads for width, heads in zip(self.vision.widths, self.vision.heads)):
            raise RequestError(f"vision.heads do not divide the widths {self.vision.widths}", "Choose divisors")
        if self.text.hidden % self.text.heads:
            raise RequestError(f"text.heads does not divide text.hidden {self.text.hidden}", "Choose a divisor")
        if self.vision.stem not in ("patch", "conv"):
            raise RequestError("vision.stem is unknown", "Use patch or conv")
        if self.parameter_count() > MAX_PARAMETERS:
            what = f"the configuration describes a model of {short(self.parameter_count())} weights"
            raise RequestError(what, f"Use at most {MAX_PARAMETERS:,}")

    # -- derived shapes ------------------------------------------------------------------------------------------

    @property
    def image_tokens(self) -> int:
        """Image tokens in the fusion encoder: the grids of strides 16 and 32, in that order."""
        return (self.image_size // 16) ** 2 + (self.image_size // 32) ** 2

    @property
    def memory_tokens(self) -> int:
        """Length of the unified memory: image, text, references, and the target token, in that order."""
        return self.image_tokens + self.text.max_length + self.prompts.references + 1

    @property
    def mask_size(self) -> int:
        """Side of the finest mask grid."""
        side: int = self.image_size // 2 ** (5 - self.mask_decoder.levels) * self.mask_decoder.upsample
        return side

    def parameter_count(self) -> int:
        """About as many weights as the model has, without building it; the true number is within a tenth of it."""
        return (
            self.vision.parameter_count()
            + self.text.parameter_count(self.vocab_size, self.dim)
            + self.fusion.parameter_count(self.dim)
            + self.mask_decoder.parameter_count(self.dim, self.vision.neck)
            + self.text_decoder.parameter_count(self.vocab_size, self.dim)
            + 7 * self.dim**2
            + 192 * self.dim
        )

    def query_of(self, entity: str) -> int | None:
        """The mask query of the name ``entity``, or None if the model has none for it."""
        return 1 + self.entities.index(entity) if entity in self.entities else None

    # -- presets and files ---------------------------------------------------------------------------------------

    @staticmethod
    def from_preset(name: str, **changes: Untyped) -> MimoConfig:
        """The configuration of a preset (``tiny``, ``base``, ``large``; ``micro`` is for tests).

        Args:
            name: of the preset.
            changes: fields with other values than in the preset.

        Raises:
            RequestError: unknown preset.
        """
        if name not in PRESETS:
            raise RequestError(f"unknown preset '{name}'", f"Choose one of {', '.join(PRESETS)}")
        return dataclasses.replace(PRESETS[name], **changes)

    def to_dict(self) -> dict[str, object]:
        """The content of ``config.json``."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: object, source: str = "config.json") -> MimoConfig:
        """Strict inverse of :meth:`to_dict`. Earlier versions are read where later ones only added or renamed fields.
        ``data`` is the content of ``config.json``, and errors call it ``source``.

        Raises:
            BundleError: any other format version, or fields that the version does not know or misses.
        """
        if not isinstance(data, dict):
            raise BundleError(f"{source} is not a JSON object", "Use the file that mimo-train wrote")
        version = data.get("format_version")
        if type(version) is not int or not OLDEST_VERSION <= version <= FORMAT_VERSION:
            raise BundleError(
                f"{source} has format version {short(version)}, this program reads {OLDEST_VERSION} to {FORMAT_VERSION}",
                "Use the mimo-edge version that wrote it, or export it again",
            )
        try:
            return _build(MimoConfig, _upgrade(data, version, source), source)
        except BundleError:
            raise
        except RequestError as error:
            raise BundleError(f"{source}: {error.what}", error.remedy) from None

    @staticmethod
    def read(path: Path) -> MimoConfig:
        """Read the file ``path``, a ``config.json``.

        Raises:
            BundleError: it cannot be read, or see :meth:`from_dict`.
        """
        try:
            data = json.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise BundleError(f"{path} does not exist", "Point to a checkpoint folder with config.json") from None
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path} cannot be read: {type(error).__name__}", "Use the file that mimo-train wrote") from None
        return MimoConfig.from_dict(data, str(path))


def _upgrade(data: dict[str, object], version: int, source: str) -> dict[str, object]:
    """The same configuration with the fields of :data:`FORMAT_VERSION`; one warning names the earlier names that it has."""
    written, earlier = data.keys(), dict[str, str]()
    data = {**data, "format_version": FORMAT_VERSION}
    for number in range(version + 1, FORMAT_VERSION + 1):
        added, renamed = _ADDED.get(number, {}), _RENAMED.get(number, {})
        if early := sorted(({*added} | {*renamed.values()}) & data.keys()):
            raise BundleError(f"{source} has format version {version}, which has no {early[0]}", "Use the file as written")
        earlier |= {old: new for old, new in renamed.items() if old in written}
        data |= added
        data = {renamed.get(name, name): value for name, value in data.items()}
        entries = _ADDED_TO_ENTRIES.get(number, {})
        data |= {name: _with_fields(data[name], fields) for name, fields in entries.items() if name in data}
    warn_renamed_fields(source, earlier)
    return data


def _with_fields(entries: object, fields: dict[str, object]) -> object:
    """The objects of a list with more fields; what is no such list is refused later."""
    if not isinstance(entries, (list, tuple)):
        return entries
    return [{**fields, **entry} if isinstance(entry, dict) else entry for entry in entries]


def _build(kind: type[_Part], data: dict[str, object], source: str) -> _Part:
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass
    unknown, missing = sorted(set(data) - set(fields)), sorted(set(fields) - set(data))
    if unknown or missing:
        lists = {word: [short(name)[1:-1] for name in names] for word, names in (("unknown", unknown), ("missing", missing))}
        message = "; ".join(f"{word} {few(names)}" for word, names in lists.items() if names)
        raise BundleError(f"{source} does not fit {kind.__name__}: {message}", "Use the mimo-edge version that wrote it")
    values: dict[str, Untyped] = {}
    for name, value in data.items():
        default: Untyped = getattr(PRESETS["tiny"] if kind is MimoConfig else kind(), name)
        if dataclasses.is_dataclass(default):
            values[name] = (
                _build(type(default), value, f"{source}: {name}") if isinstance(value, dict) else _refuse(source, name)
            )
        elif isinstance(default, tuple):
            kind_of_entry = _ENTRIES.get(name)
            if not isinstance(value, (list, tuple)):
                _refuse(source, name)
            values[name] = _entries(kind_of_entry, value, f"{source}: {name}") if kind_of_entry else _tuple(value)
        elif isinstance(default, float) and isinstance(value, (int, float)) and not isinstance(value, bool):
            if abs(value) > 1e300:  # no float
                _check_range(source, name, value)
            values[name] = float(value)
        elif isinstance(default, str) and isinstance(value, str):
            values[name] = value if value.isprintable() and len(value) <= 100 else _refuse(source, name)
        elif type(value) is type(default):
            values[name] = value
        else:
            _refuse(source, name)
        if name not in _ENTRIES and isinstance(values[name], tuple) and not _fits(values[name], str(fields[name].type)):
            _refuse(source, name)
        _check_range(source, name, values[name])
    return kind(**values)


def _entries(kind: type[_Part], values: Sequence[object], source: str) -> tuple[_Part, ...]:
    """A list of objects as dataclasses, at most one per key; the key is every text field, and ``min_score``."""
    entries, keys = list[_Part](), set[tuple[str, ...]]()
    for number, value in enumerate(values):
        entry = _build(kind, value if isinstance(value, dict) else _refuse(source, str(number)), f"{source}[{number}]")
        key = tuple(str(value) for field, value in vars(entry).items() if isinstance(value, str) or field == "min_score")
        if key in keys:
            entry_name = " ".join(filter(None, key)) or "all"
            raise BundleError(f"{source} has two entries for {entry_name}", "Use the file that mimo-train wrote")
        keys.add(key)
        entries.append(entry)
    return tuple(entries)


def _tuple(value: Sequence[object]) -> tuple[object, ...]:
    """JSON has no tuples; entries may be lists themselves."""
    return tuple(tuple(entry) if isinstance(entry, (list, tuple)) else entry for entry in value)


def _fits(value: tuple[object, ...], annotation: str) -> bool:
    """Whether the entries of a tuple are whole numbers, names, or tuples of names, as the annotation of its field says."""
    if annotation == "tuple[tuple[str, ...], ...]":
        return all(isinstance(entry, tuple) and _fits(entry, "tuple[str, ...]") for entry in value)
    kind = int if annotation == "tuple[int, ...]" else str
    return all(type(entry) is kind and (not isinstance(entry, str) or entry.isprintable()) for entry in value)


def _check_range(source: str, name: str, value: object) -> None:
    low, high = _RANGES.get(name, _COUNTS)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not isinstance(number, bool) and not low <= number <= high:
            wanted = "at least 1" if low == 1 and number < 1 else f"from {low:g} to {high:g}"
            message = f"{source}: field {name} is {short(number)}, not {wanted}"
            raise BundleError(message, "Use the file that mimo-train wrote")


def _refuse(source: str, name: str) -> NoReturn:
    raise BundleError(f"{source}: field {name} has the wrong type", "Use the file that mimo-train wrote")


PRESETS: dict[str, MimoConfig] = {name: MimoConfig(preset=name, **fields) for name, fields in PRESET_FIELDS.items()}
