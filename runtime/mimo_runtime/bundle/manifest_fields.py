"""The type, range and length of every field of ``manifest.json``. ``schema.py`` checks what values mean to each other."""

from __future__ import annotations

from ..model.graph_spec import GRAPHS
from ..model.json_fields import Check, array, flag, mapping, nullable, number, record, text, whole

_HASH = text(64, "[0-9a-f]{64}")
_NAME, _VERSION = text(100), text(100)
#: Words of a build about data: names of folders and sets are what their owner chose.
_WORDS = text(2000, one_line=False)
#: "8.6", "8.0+" or "8.6,8.9".
_CAPABILITY = text(100, r"\d{1,3}\.\d{1,3}(\+|(,\d{1,3}\.\d{1,3})*)")
#: Smallest, typical and largest size of each dynamic axis.
_AXES = mapping(array(whole(0, 2**31), most=3, least=3), _NAME, most=16)
#: ``schema.check_name`` says which are allowed.
_PATH = text(1000, one_line=False)
_COUNTS, _NUMBERS = mapping(whole(), _WORDS), mapping(nullable(number()), _WORDS)


def _size(value: object) -> None:
    """An axis: a number, or the name of a dynamic one."""
    (_NAME if isinstance(value, str) else whole(0, 2**31))(value)


_TENSORS = array(record({"name": _NAME, "dtype": _NAME, "shape": array(_size, most=16)}), most=1000)
_BUILD = record(
    {
        "axes": _AXES,
        "compute_capabilities": array(text(20, r"\d{1,3}\.\d{1,3}"), most=100),
        "operators": array(_NAME, most=1000),
    }
)
GRAPH: Check = record(
    {
        "engine": _NAME,
        "threads": nullable(whole(1, 4096)),
        "asked": _NAME,
        "delivered": mapping(whole(), _NAME, most=100),
        "file": _PATH,
        "sha256": _HASH,
        "bytes": whole(),
        "build": nullable(_BUILD),
        "contract": record({"inputs": _TENSORS, "outputs": _TENSORS}),
    },
    optional={
        "profiles": nullable(array(_AXES, most=100, least=1)),
        "speculation": nullable(record({"tokens": whole(1, 64), "margin": number()})),
        "options": nullable(mapping(_NAME, _NAME, most=16)),
        "compiled": nullable(record({"weights": whole(), "activations": whole()})),
    },
)
COMPATIBILITY: Check = record(
    {
        "engines": mapping(
            record({"min": _VERSION}, {"built_with": nullable(_VERSION), "opset": whole(1, 1000)}), _NAME, most=100
        ),
        "arch": nullable(_NAME),
        "cpu_features": array(_NAME, most=1000),
        "compute_capability": nullable(_CAPABILITY),
    },
    optional={"os": nullable(_NAME), "processor": nullable(record({"name": text(200), "features": array(_NAME, most=1000)}))},
)
_GRAPH_PARITY = record(
    {"relative_l2": nullable(number()), "limit": number(), "worst_output": _NAME, "calls": whole(), "batches_of_two": whole()}
)
PARITY: Check = record(
    {},
    optional={
        **dict.fromkeys(GRAPHS, _GRAPH_PARITY),
        **dict.fromkeys(("masks_dice", "masks_dice_min", "text_agreement", "presence_agreement"), nullable(number())),
        "masks": whole(),
        "samples": _COUNTS,
        "limits": _NUMBERS,
        "missed": array(_WORDS, most=1000),
        "measured_on": nullable(_NAME),
    },
)
_CALIBRATION_FACTS = record(
    {},
    optional={
        **dict.fromkeys(("id", "held_out"), _WORDS),
        **dict.fromkeys(("images", "held_out_images", "seed"), whole()),
        **dict.fromkeys(("unseen_modalities", "engines_tried", "engines_missing", "image_hashes"), array(_WORDS)),
        **dict.fromkeys(("forced", "timed"), flag),
        "sets": _COUNTS,
        "tolerance": number(),
    },
)


def _calibration(value: object) -> None:
    """Facts; earlier releases wrote one line of text."""
    (_WORDS if isinstance(value, str) else nullable(_CALIBRATION_FACTS))(value)


_LOSS = record(
    {},
    optional={
        "dice": _NUMBERS,
        "ci95": mapping(array(number(), most=2, least=2), _WORDS),
        **dict.fromkeys(("presence_f1", "text_agreement", "presence_changed"), nullable(number())),
        "questions": whole(),
        "presence_by": _NAME,
        "unasked": array(_NAME, most=1000),
    },
)
ACCURACY: Check = record({}, optional={"macro_dice": _NUMBERS, "fp32": _NUMBERS, "loss": _LOSS})


def _object(value: object) -> None:
    """An object that is compared as a whole later."""
    mapping(lambda entry: None)(value)


MANIFEST_FIELDS: Check = record(
    {
        "format": _NAME,
        "format_version": whole(),
        "model": record({"id": text(), "config": _object, "parameters": whole(), "checkpoint_sha256": _HASH}),
        "target": _NAME,
        "graphs": record(dict.fromkeys(GRAPHS, GRAPH)),
        "files": mapping(_HASH, _PATH),
        "preprocessing": _object,
        "compatibility": COMPATIBILITY,
        "tools": mapping(_VERSION, _NAME, most=1000),
        "calibration": _calibration,
        "parity": PARITY,
        "accuracy": nullable(ACCURACY),
        "licence": text(),
        "manifest_sha256": _HASH,
    },
    optional={"tuning": record({"cores": whole(1, 4096), "masks_beside_text": flag})},
)
