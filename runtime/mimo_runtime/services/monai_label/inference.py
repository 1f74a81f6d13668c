"""The models that viewers list, and their answers: all structures, one by name, or one object by points and a box."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from ...errors import DeadlineError, PromptError, RequestError
from ...model.config import MimoConfig
from ...model.json_fields import is_too_deep
from ...pipeline import Mimo
from ...request import AskRequest
from ...series.scans import SeriesAnswer, SeriesScans
from ...text.questions import EVERYTHING
from ..interaction.marks import box_of
from ..interaction.prediction import predict, stop_check
from ..interaction.segmentation import Segmentation
from ..jobs import Job
from .opening import AXIAL, OpenedVolume

#: Names of the models that are no structure.
ALL, POINTS, POINTS_2D = "all_structures", "points", "points_2d"
_MOST_POINTS = 1000


class ModelJson(TypedDict):
    """A model as viewers list it."""

    type: str
    labels: dict[str, int]
    dimension: int
    description: str
    config: dict[str, str]


@dataclass(frozen=True)
class InferParams:
    """What viewers send beside the image. Other fields have no effect.

    Args:
        foreground, background: voxels of the file on the object, and beside it.
        roi: least and largest index along each axis of the file; None without a box.
        slice: along the last axis, of ``roi``; None is the middle of the box.
        label: name of the object.
        extension: of the label file.
        compress: whether voxels of NRRD are compressed.
        keep_values: whether structures have the values of ``/info/``; else they are numbered as they occur.
    """

    foreground: tuple[tuple[float, ...], ...] = ()
    background: tuple[tuple[float, ...], ...] = ()
    roi: tuple[float, ...] | None = None
    slice: float | None = None
    label: str = ""
    extension: str = ".nii.gz"
    compress: bool = True
    keep_values: bool = False

    @staticmethod
    def read(text: str | bytes) -> InferParams:
        """Of JSON.

        Raises:
            RequestError: no JSON object, or a field of another type.
        """
        try:
            content = json.loads(text or "{}")
        except (ValueError, RecursionError):
            raise RequestError("params is no valid JSON", "Send one JSON object") from None
        if not isinstance(content, dict) or is_too_deep(content):
            raise RequestError("params is no JSON object", "Send one JSON object")
        roi, index, label = content.get("roi") or None, content.get("slice"), content.get("label")
        extension = content.get("result_extension", ".nii.gz")
        return InferParams(
            _points(content, "foreground"), _points(content, "background"), None if roi is None else _row(roi, 6, "roi"),
            None if index is None else _row([index], 1, "slice")[0], label if isinstance(label, str) else "",
            extension if isinstance(extension, str) else "", content.get("result_compress") is not False,
            content.get("restore_label_idx") is False,
        )  # fmt: skip


def _points(content: Mapping[str, object], name: str) -> tuple[tuple[float, ...], ...]:
    rows = content.get(name) or []
    if not isinstance(rows, list) or len(rows) > _MOST_POINTS:
        raise RequestError(f"{name} is no list of points", "Send [[i, j, k], …] in voxels of the image")
    return tuple(_row(row, 3, name) for row in rows)


def _row(row: object, count: int, name: str) -> tuple[float, ...]:
    is_row = isinstance(row, list) and len(row) == count and all(type(v) in (int, float) and abs(v) < 1e9 for v in row)
    if not is_row or not isinstance(row, list):
        raise RequestError(f"{name} is not made of {count} numbers", "Send indices of voxels of the image")
    return tuple(float(value) for value in row)


def models_of(config: MimoConfig) -> dict[str, ModelJson]:
    """The models by name."""

    def model(kind: str, labels: dict[str, int], dimension: int, description: str) -> ModelJson:
        return {"type": kind, "labels": labels, "dimension": dimension, "description": description, "config": {}}

    structures = {name: value for value, name in enumerate(config.entities, 1)}
    listed = {
        ALL: model("segmentation", structures, 3, "All structures that the model knows, slice by slice"),
        POINTS: model("deepgrow", {}, 3, "One object by points or a box, followed through the slices"),
        POINTS_2D: model("deepgrow", {}, 2, "One object by points or a box, in one slice"),
    }
    for name in config.entities:
        listed.setdefault(_model_name(name), model("segmentation", {name: 1}, 3, f"{name}, asked for by name"))
    return listed


def _model_name(structure: str) -> str:
    """A structure as the name of a model: part of an address, which 3D Slicer writes with "+" for a space."""
    return re.sub(r"[^\w.-]+", "_", structure)


def infer(
    mimo: Mimo, job: Job, model: str, opened: OpenedVolume, params: InferParams
) -> tuple[np.ndarray, dict[str, int]]:  # fmt: skip
    """The labels of an image.

    Args:
        model: a name of :func:`models_of`.

    Returns:
        uint8 or uint16 ``[I, J, K]`` as the file is stored, and the value of each structure.

    Raises:
        PromptError: points or a box outside of the image, or none where the model needs them.
        DeadlineError, CancelledError: the answer is not complete.
    """
    if model in (POINTS, POINTS_2D):
        labels, names = _by_points(mimo, job, opened, params, follows=model == POINTS), {params.label or "object": 1}
    elif model == ALL:
        request = AskRequest.of(EVERYTHING, text_answer=False, should_stop=stop_check(job))
        answer = SeriesScans(opened.series(mimo), mimo.open).ask_request(request)
        values = {name: value for value, name in enumerate(mimo.config.entities, 1)}
        labels, names = _labels_of(answer, opened, values, params.keep_values)
    else:
        structure = next(name for name in mimo.config.entities if _model_name(name) == model)
        answer = mimo.segment_volume(opened.series(mimo), structure, should_stop=stop_check(job))
        labels, names = _labels_of(answer, opened, None, params.keep_values)[0], {structure: 1}
    return opened.grid.to_file(labels), names


def _by_points(mimo: Mimo, job: Job, opened: OpenedVolume, params: InferParams, *, follows: bool) -> np.ndarray:
    segmentation, grid = Segmentation(opened.volume, AXIAL), opened.grid
    if not params.foreground and params.roi is None:
        raise PromptError("no point is on the object", "Add a point on it, or a box around it")
    with segmentation.step():
        if params.roi is not None:
            lows, highs = params.roi[0::2], params.roi[1::2]
            first, second = grid.to_model(lows), grid.to_model(highs)
            edges = [(min(a, b), max(a, b) + 1) for a, b in zip(first, second)]
            middle = (edges[0][0] + edges[0][1] - 1) // 2
            if params.slice is not None:
                middle = grid.to_model((lows[0], lows[1], params.slice))[0]
            segmentation.draw(box_of([(middle, middle + 1), *edges[1:]], opened.volume, True))
        for points, include in ((params.foreground, True), (params.background, False)):
            for point in points:
                segmentation.point(grid.to_model(point), include)
        predict(mimo, segmentation, job, follows=follows)
    return segmentation.mask.astype(np.uint8)


def _labels_of(
    answer: SeriesAnswer, opened: OpenedVolume, values: Mapping[str, int] | None, keeps_values: bool
) -> tuple[np.ndarray, dict[str, int]]:
    """The findings as values, smaller ones over larger ones. Without ``values``, all of them are 1."""
    if not answer.is_complete:
        raise DeadlineError("the time ended before all slices were complete", "Raise --longest, or ask for one structure")
    count, *size = opened.volume.shape
    height, width = size
    present = dict.fromkeys(finding.phrase for finding in answer.findings if values is None or finding.phrase in values)
    names = {name: number for number, name in enumerate(sorted(present, key=list(values or present).index), 1)}
    if values is not None and keeps_values:
        names = {name: values[name] for name in names}
    labels = np.zeros((count, height, width), np.uint8 if max([*names.values(), 1]) < 256 else np.uint16)
    for finding in sorted(answer.findings, key=lambda finding: -sum(finding.areas_px().values())):
        if finding.phrase in names:
            value = 1 if values is None else names[finding.phrase]
            for frame in finding.frames:
                labels[frame][finding.mask(frame, height, width)] = value
    return labels, names
