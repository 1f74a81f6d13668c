"""Numbers that the page in the browser computes with beside the graphs: ``page/numeric`` mirrors modules of the runtime.

The statistics of the domain check are a file of their own, ``page/domain.bin``: the arrays of ``DomainStatistics`` in a row,
little-endian.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TypedDict

import numpy as np

from mimo_runtime import modalities
from mimo_runtime.domain.check import NEIGHBOURS
from mimo_runtime.domain.statistics import LEVELS, DomainStatistics
from mimo_runtime.model import output_check
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.postprocessing import contours, masks, measure
from mimo_runtime.refinement.config import RefinementConfig

#: Fields of the configuration that decide what is present.
THRESHOLDS = ("presence_threshold", "presence_temperature", "entity_threshold", "abstain_threshold", "mask_threshold")
#: Arrays of ``page/domain.bin``, in this order: those of four bytes first, so that each begins at a multiple of its size.
_ARRAYS = (("mean", "<f4"), ("projection", "<f4"), ("spreads", "<f4"), ("vectors", "<f2"), ("modality_of", "<u2"))


class PartsFacts(TypedDict):
    """Small parts of a mask that are dropped (``postprocessing/masks.py``)."""

    min_share: float
    min_cells: int


class ContourFacts(TypedDict):
    """Constants of ``postprocessing/contours.py``."""

    reach: float
    widest_outer: float
    tolerance: float


class OutputFacts(TypedDict):
    """Ranges of the outputs of graphs (``model/output_check.py``)."""

    limit: float
    fractions: list[str]
    tolerance: float


class WordsFacts(TypedDict):
    """Words for modalities (``modalities.py``)."""

    dicom: dict[str, str]
    known: tuple[str, ...]
    kinds: dict[str, str]


class ArrayFacts(TypedDict):
    """An array in ``page/domain.bin``: type of numpy, first byte, and number of values."""

    name: str
    type: str
    offset: int
    count: int


class DomainFacts(TypedDict):
    """What belongs to ``page/domain.bin``."""

    arrays: list[ArrayFacts]
    modalities: tuple[str, ...]
    limits: list[float]
    levels: tuple[str, ...]
    neighbours: int


class NumericFacts(TypedDict):
    """All numbers that the page needs; entries of the configuration under their own names."""

    image_size: int
    max_boxes: int
    max_points: int
    entities: tuple[str, ...]
    trained: tuple[str, ...]
    thresholds: dict[str, float]
    refinement: dict[str, object]
    contours: list[dict[str, object]]
    coverage: float
    presence_calibration: list[dict[str, object]]
    parts: PartsFacts
    contour_rules: ContourFacts
    centre_bias: float
    outputs: OutputFacts
    modalities: WordsFacts
    domain: DomainFacts | None


def numeric_facts(config: MimoConfig, domain: DomainStatistics | None) -> NumericFacts:
    """The facts of a model and of its statistics, if it has any."""
    return {
        "image_size": config.image_size,
        "max_boxes": config.prompts.max_boxes,
        "max_points": config.prompts.max_points,
        "entities": config.entities,
        "trained": config.modalities,
        "thresholds": {name: float(getattr(config, name)) for name in THRESHOLDS},
        "refinement": asdict(RefinementConfig.of(config)),
        "contours": [asdict(entry) for entry in config.contours],
        "coverage": config.coverage,
        "presence_calibration": [asdict(entry) for entry in config.presence_calibration],
        "parts": {"min_share": masks.MIN_SHARE, "min_cells": masks.MIN_CELLS},
        "contour_rules": {
            "reach": contours.REACH, "widest_outer": contours.WIDEST_OUTER, "tolerance": contours.RADIUS_TOLERANCE,
        },
        "centre_bias": measure.CENTRE_BIAS,
        "outputs": {
            "limit": output_check.LIMIT, "fractions": sorted(output_check.FRACTIONS), "tolerance": output_check.TOLERANCE,
        },
        "modalities": {"dicom": modalities.DICOM_MODALITIES, "known": modalities.KNOWN, "kinds": modalities.KINDS},
        "domain": None if domain is None else _domain(domain),
    }  # fmt: skip


def domain_bytes(domain: DomainStatistics) -> bytes:
    """``page/domain.bin``."""
    return b"".join(np.ascontiguousarray(getattr(domain, name), kind).tobytes() for name, kind in _ARRAYS)


def _domain(domain: DomainStatistics) -> DomainFacts:
    arrays, offset = list[ArrayFacts](), 0
    for name, kind in _ARRAYS:
        count = int(getattr(domain, name).size)
        arrays.append({"name": name, "type": np.dtype(kind).name, "offset": offset, "count": count})
        offset += count * np.dtype(kind).itemsize
    return {
        "arrays": arrays,
        "modalities": domain.modalities,
        "limits": [float(limit) for limit in domain.limits],
        "levels": LEVELS,
        "neighbours": NEIGHBOURS,
    }
