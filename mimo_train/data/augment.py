"""Random views of an image and its labels, drawn straight onto the letterboxed canvas that the model sees."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from mimo_runtime.data.dataset import Record
from mimo_runtime.data.prompt_sampling import mask_box
from mimo_runtime.refinement.crops import contrast_table

from .appearance import vary, vary_strongly

#: Modalities without an up or down: any flip or quarter turn is another plausible image.
ORIENTATION_FREE = ("endoscopy", "microscopy")
#: Structures with one of these words, and the organs of these regions, have a side: a mirror would swap or misplace them.
SIDE_WORDS = frozenset({"left", "right", "lt", "rt"})
SIDED_REGIONS = frozenset(
    [
        "abdomen",
        "abdominal",
        "body",
        "chest",
        "heart",
        "cardiac",
        "lung",
        "lungs",
        "pelvis",
        "thoracic",
        "thorax",
        "torso",
        "trunk",
    ]
)
#: Structures that cover this share of the image are copied.
COPY_PASTE_AREA = (0.001, 0.06)
#: Places tried for a copy.
COPY_PASTE_TRIES = 12
#: The side of a crop view, as a multiple of the structure's longer side.
CROP_SCALE = (2.2, 5.0)
#: A structure that is longer than this share of the image gets no crop view.
CROP_FILL = 0.4


@dataclass
class View:
    """pixels uint8 [S, S, 3] and labels int32 [S, S] on the canvas; the image fills the first ``height`` x ``width``.

    ``instances`` int32 [S, S] holds instance ids where the data set has them; ``target`` bool [S, S] is the structure of a
    crop view.
    """

    pixels: np.ndarray
    labels: np.ndarray
    height: int
    width: int
    instances: np.ndarray | None = None
    target: np.ndarray | None = None


def plain_view(pixels: np.ndarray, labels: np.ndarray, size: int, instances: np.ndarray | None = None) -> View:
    """The letterboxed image, unchanged."""
    height, width = labels.shape
    scale = size / max(height, width)
    out_h, out_w = max(1, round(height * scale)), max(1, round(width * scale))
    return _warp(pixels, labels, size, out_h, out_w, np.eye(2), (0.0, 0.0), instances)


def may_mirror(record: Record, names: Iterable[str] = ()) -> bool:
    """Whether a mirrored image is still plausible: not where a class is called left or right, nor where organs have a side.

    Args:
        names: of all classes of its set, besides those of the record: a class that is not in this image may have a side.
    """
    words = {word for name in (*record.classes.values(), *names) for word in _words(name)}
    return not words & SIDE_WORDS and not set(_words(record.region)) & SIDED_REGIONS


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.casefold())


def random_view(
    pixels: np.ndarray,
    labels: np.ndarray,
    record: Record,
    size: int,
    rng: np.random.Generator,
    instances: np.ndarray | None = None,
    copy_share: float = 0.0,
    names: Iterable[str] = (),
    strong: bool = False,
) -> View:
    """Rotation, scale, shift, aspect, mirror, contrast, gamma, noise and blur; with probability ``copy_share`` a second copy.

    ``names`` are those of all classes of the set, see :func:`may_mirror`. ``strong`` changes the appearance strongly.
    """
    height, width = labels.shape
    if rng.random() < 0.1:
        view = plain_view(pixels, labels, size, instances)
    else:
        aspect = np.exp(rng.uniform(-0.12, 0.12)) * height / width
        out_h, out_w = (size, round(size / aspect)) if aspect >= 1 else (round(size * aspect), size)
        turn = _turn(record, rng, names)
        zoom = np.exp(rng.uniform(-0.25, 0.4))
        reach = 0.12 if zoom < 1 else 0.12 + 0.5 * (1 - 1 / zoom)
        shift = (rng.uniform(-reach, reach) * width, rng.uniform(-reach, reach) * height)
        view = _warp(pixels, labels, size, out_h, out_w, turn / zoom, shift, instances)
    if rng.random() < copy_share:
        copy_paste(view, rng)
    change = vary_strongly if strong else vary
    view.pixels[: view.height, : view.width] = change(view.pixels[: view.height, : view.width], rng)
    return view


def crop_view(
    pixels: np.ndarray,
    labels: np.ndarray,
    target: np.ndarray,
    record: Record,
    size: int,
    rng: np.random.Generator,
    names: Iterable[str] = (),
    strong: bool = False,
) -> View | None:
    """A small structure with its surroundings, enlarged as the crop pass does (``mimo_runtime.refinement.crops``).

    Args:
        target: bool [H, W], the structure; not empty.
        names: of all classes of the set, see :func:`may_mirror`.
        strong: see :func:`random_view`.

    Returns:
        None where the structure is too large for a crop.
    """
    height, width = labels.shape
    x0, y0, x1, y1 = mask_box(target)
    longer = max(x1 - x0, y1 - y0)
    if longer > CROP_FILL * max(height, width):
        return None
    side = longer * rng.uniform(*CROP_SCALE)
    x, y = (x0 + x1) / 2 + rng.uniform(-0.12, 0.12) * side, (y0 + y1) / 2 + rng.uniform(-0.12, 0.12) * side
    left, top = max(0.0, x - side / 2), max(0.0, y - side / 2)
    right, bottom = min(float(width), x + side / 2), min(float(height), y + side / 2)
    wide, high = (right - left) * np.exp(rng.uniform(-0.12, 0.12)), bottom - top
    out_h, out_w = (max(1, round(n * size / max(wide, high))) for n in (high, wide))
    turn = _turn(record, rng, names) @ np.diag([wide / width, high / height])
    shift = (left + right - width) / 2, (top + bottom - height) / 2
    view = _warp(pixels, labels, size, out_h, out_w, turn, shift, target.astype(np.uint8))
    view.target, view.instances = view.instances == 1, None
    table = contrast_table(pixels[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))])
    view.pixels[:out_h, :out_w] = (vary_strongly if strong else vary)(table[view.pixels[:out_h, :out_w]], rng)
    return view


def any_turn(source: View, rng: np.random.Generator) -> View:
    """The whole image turned by quarters and mirrored, each of the eight ways alike. Not for views of a canvas.

    Structures keep their names, also those of a side: the kidney beside the liver is the right one on either side of the image.
    """
    quarters, mirrored = int(rng.integers(4)), bool(rng.integers(2))

    def turned(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(array[:, ::-1] if mirrored else array, quarters))

    labels = turned(source.labels)
    instances = None if source.instances is None else turned(source.instances)
    return View(turned(source.pixels), labels, *labels.shape, instances)


def _turn(record: Record, rng: np.random.Generator, names: Iterable[str]) -> np.ndarray:
    """[2, 2]: a small rotation, and the quarter turns and mirrors that keep the image plausible."""
    free, mirrored = record.modality.casefold() in ORIENTATION_FREE, may_mirror(record, names)
    angle = rng.uniform(-0.26, 0.26) + (rng.integers(4) * np.pi / 2 if free and rng.random() < 0.5 else 0.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirrored and rng.random() < 0.5:
        turn = turn @ np.diag([-1.0, 1.0])
    if mirrored and free and rng.random() < 0.5:
        turn = turn @ np.diag([1.0, -1.0])
    return turn


def copy_paste(view: View, rng: np.random.Generator) -> bool:
    """Copy one structure to another place of the view, with a soft seam (after Ghiasi et al. 2021, arXiv:2012.07177).

    Where images rarely show two structures of a class, such views teach a box or point to select one of them.

    Returns:
        whether a structure had a fit size and enough space.
    """
    height, width = view.height, view.width
    labels, pixels = view.labels[:height, :width], view.pixels[:height, :width]
    class_ids = [i for i in np.unique(labels) if i and COPY_PASTE_AREA[0] < np.mean(labels == i) < COPY_PASTE_AREA[1]]
    if not class_ids:
        return False
    class_id = class_ids[int(rng.integers(len(class_ids)))]
    x0, y0, x1, y1 = mask_box(labels == class_id)
    margin = max(2, round(0.15 * max(x1 - x0, y1 - y0)))
    x0, y0, x1, y1 = max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)
    piece, shape = pixels[y0:y1, x0:x1].copy(), labels[y0:y1, x0:x1] == class_id
    if rng.random() < 0.5:
        piece, shape = piece[:, ::-1], shape[:, ::-1]
    h, w = shape.shape
    for _ in range(COPY_PASTE_TRIES):
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        if labels[y : y + h, x : x + w].any():
            continue
        wide = Image.fromarray(shape.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * (margin // 2) + 1))
        seam = np.asarray(wide.filter(ImageFilter.GaussianBlur(margin / 3)), np.float32)[..., None] / 255.0
        under = pixels[y : y + h, x : x + w]
        pixels[y : y + h, x : x + w] = np.round(seam * piece + (1.0 - seam) * under)
        labels[y : y + h, x : x + w][shape] = class_id
        if view.instances is not None:
            view.instances[y : y + h, x : x + w][shape] = view.instances.max() + 1
        return True
    return False


def _warp(
    pixels: np.ndarray,
    labels: np.ndarray,
    size: int,
    out_h: int,
    out_w: int,
    turn: np.ndarray,
    shift: tuple[float, float],
    instances: np.ndarray | None,
) -> View:
    """Canvas pixel -> source pixel: scale by the letterbox, turn about the centre, shift."""
    height, width = labels.shape
    scale = np.diag([width / out_w, height / out_h])
    matrix = turn @ scale
    centre = np.array([width / 2 + shift[0], height / 2 + shift[1]]) - matrix @ np.array([out_w / 2, out_h / 2])
    data = (matrix[0, 0], matrix[0, 1], centre[0], matrix[1, 0], matrix[1, 1], centre[1])
    source = Image.fromarray(pixels)
    factor = float(np.sqrt(abs(np.linalg.det(matrix))))
    if factor > 1.5:  # an affine transform does not antialias; shrink first
        source = source.resize(
            (max(1, round(width / factor)), max(1, round(height / factor))), Image.Resampling.BILINEAR, reducing_gap=2.0
        )
        sx, sy = source.width / width, source.height / height
        data = (data[0] * sx, data[1] * sx, data[2] * sx, data[3] * sy, data[4] * sy, data[5] * sy)
    drawn = source.transform((out_w, out_h), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
    flat = (matrix[0, 0], matrix[0, 1], centre[0], matrix[1, 0], matrix[1, 1], centre[1])
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:out_h, :out_w] = np.asarray(drawn)
    marks, parts = (None if ids is None else _warp_ids(ids, size, out_h, out_w, flat) for ids in (labels, instances))
    return View(canvas, marks, out_h, out_w, parts)


def _warp_ids(ids: np.ndarray, size: int, out_h: int, out_w: int, data: tuple[float, ...]) -> np.ndarray:
    # Pillow warps 8 and 32 bit alike; 8 is faster and holds most ids.
    source = Image.fromarray(ids.astype(np.uint8 if ids.max(initial=0) < 256 else np.int32))
    canvas = np.zeros((size, size), np.int32)
    canvas[:out_h, :out_w] = np.asarray(
        source.transform((out_w, out_h), Image.Transform.AFFINE, data, Image.Resampling.NEAREST)
    )
    return canvas
