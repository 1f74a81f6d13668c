"""The JSON of nnInteractive's protocol: bodies, the header ``X-Meta``, and replies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypedDict

from ...errors import RequestError

META, LEASE = "X-Meta", "X-Lease-Token"


@dataclass(frozen=True)
class BufferBody:
    """The array into which a client writes masks.

    Args:
        shape: of the image.
        dtype: "uint8", or another type of whole numbers.
    """

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ZoomBody:
    """Has no effect: small targets are refined by themselves.

    Args:
        do_autozoom: any.
    """

    do_autozoom: bool


@dataclass(frozen=True)
class PredictBody:
    """Segment what was drawn without a prediction.

    Args:
        force_full_refine: has no effect.
    """

    force_full_refine: bool = False


@dataclass(frozen=True)
class EmptyBody:
    """No fields."""


@dataclass(frozen=True)
class BoxBody:
    """A box in one slice.

    Args:
        bbox_coords: start and end along each axis, one voxel apart along one of them.
        include_interaction: whether it is about the object, or about what is not.
        run_prediction: whether the mask is wanted now.
        override_capability_checks: has no effect.
    """

    bbox_coords: tuple[tuple[float, float], ...]
    include_interaction: bool
    run_prediction: bool = True
    override_capability_checks: bool = False


@dataclass(frozen=True)
class PointBody:
    """A point.

    Args:
        coordinates: indices of a voxel.
        include_interaction: whether it is on the object, or beside it.
        run_prediction: whether the mask is wanted now.
        override_capability_checks: has no effect.
    """

    coordinates: tuple[float, float, float]
    include_interaction: bool
    run_prediction: bool = True
    override_capability_checks: bool = False


@dataclass(frozen=True)
class DrawingMeta:
    """Beside the voxels of a scribble or lasso.

    Args:
        include_interaction: whether it is about the object, or about what is not.
        run_prediction: whether the mask is wanted now.
        override_capability_checks: has no effect.
        interaction_bbox: start and end of the voxels along each axis; null for all of the image.
    """

    include_interaction: bool
    run_prediction: bool = True
    override_capability_checks: bool = False
    interaction_bbox: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class InitialMeta:
    """Beside the voxels of an initial segmentation.

    Args:
        run_prediction: whether it is refined now.
        override_capability_checks: has no effect.
    """

    run_prediction: bool = False
    override_capability_checks: bool = False


class ClaimJson(TypedDict):
    """A lease, and when it ends."""

    lease_token: str
    idle_timeout_seconds: float
    liveness_timeout_seconds: float
    max_sessions: int


class CapabilitiesJson(TypedDict):
    """What the service can segment by; channels are those of nnInteractive's own model, and have no meaning here."""

    supported_interactions: dict[str, bool]
    channel_mapping: dict[str, list[int] | int]
    num_interaction_channels: int
    supports_initial_label: bool
    supports_zero_shot_label_refinement: bool
    preferred_scribble_thickness: list[int]
    interaction_decay: float | None
    patch_size: list[int]
    do_autozoom: bool
    inference_session_version: str
    license: str
    supports_undo: bool


class ShapeJson(TypedDict):
    """The shape of the image, channels first."""

    original_image_shape: list[int]


class RemainingJson(TypedDict):
    """Seconds until the lease ends without an interaction."""

    remaining_seconds: float


class LeaseJson(RemainingJson):
    """The same, and the seconds of a lease."""

    idle_timeout_seconds: float


class HealthyJson(TypedDict):
    """The process answers."""

    ok: bool


class ReleasedJson(TypedDict):
    """The lease has ended."""

    released: bool


class DoneJson(TypedDict):
    """Nothing to say."""


class Changed(TypedDict):
    """The header ``X-Meta`` of a mask: bounds of the voxels of the body, null without a change."""

    ran_prediction: bool
    bbox: list[list[int]] | None


def spacing_of(meta: str) -> tuple[float, float, float] | None:
    """``image_properties.spacing`` of the header of an image: mm along the axes; None without.

    Raises:
        RequestError: no JSON, or a spacing that is not three numbers above 0.
    """
    try:
        content = json.loads(meta or "{}")
    except (ValueError, RecursionError):
        raise RequestError("the header X-Meta is no valid JSON", "Send it with nninteractive-client") from None
    properties = content.get("image_properties") if isinstance(content, dict) else None
    spacing = properties.get("spacing") if isinstance(properties, dict) else None
    if spacing is None:
        return None
    values = spacing if isinstance(spacing, list) and len(spacing) == 3 else []
    numbers = [float(value) for value in values if type(value) in (int, float) and 0 < value < 1e6]
    if len(numbers) != 3:
        raise RequestError("the spacing is not three numbers above 0", "Send mm along the three axes, or leave it out")
    return numbers[0], numbers[1], numbers[2]
