"""Targets without a class: regions of real images, blended shapes, and annotated structures in other colours.

They teach boxes, points and masks to select any structure. Their prompts have no name. Their views train masks, box, IoU and
presence of the target alone: no text and no entities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np

from mimo_runtime.data.dataset import Record
from mimo_runtime.data.prompt_sampling import instance_labels, interior_point, jitter_box, mask_box, negative_point, rough_mask
from mimo_runtime.text.questions import question

from .augment import View, any_turn, crop_view, random_view
from .prompts import MIN_PIXELS, PromptSampler, Sample
from .regions import POINT_CONTRAST, Region, boundary_contrast, image_regions
from .shapes import blend, random_shape, shrunk, touching

#: Kinds of targets and their shares; a kind that the image does not offer is replaced by shapes.
KINDS = {"regions": 0.3, "shapes": 0.35, "annotated": 0.35}
#: Share of the views of regions and annotated structures that are crops around one of them.
CROP_SHARE = 0.5
#: Share of the views with a strong change of appearance and any turn.
STRONG_SHARE = 0.6
#: Most targets in one view of regions.
MAX_TARGETS = 4
#: Blended shapes with less contrast are drawn again, at most so often.
MIN_SHAPE_CONTRAST, SHAPE_TRIES = 0.2, 4
#: Layouts of blended shapes and their shares: two that touch look alike, several apart look alike, an inner one does not.
LAYOUTS = {"single": 0.35, "touching": 0.2, "several": 0.2, "nested": 0.25}
#: Size of the inner one of two nested shapes, relative to the outer one.
INNER_SIZE = (0.35, 0.8)
#: Share of the annotated targets with several parts that are all of the parts together.
WHOLE_SHARE = 0.3
#: Share of the prompts that ask "what is this?" instead of nothing.
QUESTION_SHARE = 0.2
#: How far the sides of a box move, as shares of its length.
LOOSENESS = (0.0, 0.05, 0.1, 0.2)
#: Kinds of prompts and their shares for targets that a point selects, and for others.
POINTABLE = {"box": 0.4, "point": 0.3, "rough": 0.15, "mixed": 0.15}
BOUNDED = {"box": 0.65, "rough": 0.2, "mixed": 0.15}


@dataclass(frozen=True)
class PseudoTarget:
    """A target on the canvas.

    Attributes:
        mask: bool [S, S]; pointable: whether a point alone selects it.
        neighbour: bool [S, S], a structure beside it that looks the same and that a negative point excludes.
    """

    mask: np.ndarray
    pointable: bool
    neighbour: np.ndarray | None = None

    def on_canvas(self, size: int) -> PseudoTarget:
        """The same on a canvas of ``size`` pixels, of which the masks fill the upper left part."""
        return replace(
            self,
            mask=_on_canvas(self.mask, size),
            neighbour=None if self.neighbour is None else _on_canvas(self.neighbour, size),
        )


class PseudoTargets:
    """Draws views with targets of no class.

    Args:
        sampler: draws the annotated targets.

    Raises:
        ModuleNotFoundError: scikit-image or SciPy is not installed.
    """

    def __init__(self, sampler: PromptSampler) -> None:
        import_module("skimage.segmentation")  # a missing package is reported before the run, not in the middle of it
        self.sampler = sampler
        self._regions: dict[tuple[object, int], list[Region]] = {}

    def draw(
        self, record: Record, source: View, texture: np.ndarray, size: int, count: int, rng: np.random.Generator
    ) -> tuple[View, list[Sample]]:
        """A view of one image and ``count`` prompts.

        Args:
            source: the whole image; texture: uint8 [h, w, 3], the image that fills shapes; size: side of the canvas.
        """
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        strong = bool(rng.random() < STRONG_SHARE)
        drawn = None
        if kind == "regions":
            drawn = self._region_view(record, source, size, strong, rng)
        elif kind == "annotated":
            drawn = self._annotated_view(record, source, size, count, strong, rng)
        view, targets = drawn or self._shape_view(record, source, texture, size, strong, rng)
        if not targets:  # not even a shape: an ordinary view
            return view, self.sampler.draw(view, record, count, rng)
        view.target, view.instances = targets[0].mask, None
        return view, [referring_prompt(targets[int(rng.integers(len(targets)))], view, rng) for _ in range(count)]

    def _region_view(
        self, record: Record, source: View, size: int, strong: bool, rng: np.random.Generator
    ) -> tuple[View, list[PseudoTarget]] | None:
        regions = self._regions_of(record, source.pixels)
        chosen = [regions[i] for i in rng.permutation(len(regions))[:MAX_TARGETS]]
        # Regions may be nested, so each has a bit of its own in the map that is turned and warped with the image.
        bits = np.zeros(source.labels.shape, np.uint8)
        for i, region in enumerate(chosen):
            bits |= region.mask(source.height, source.width).astype(np.uint8) << i
        source = replace(source, instances=bits)
        source = any_turn(source, rng) if strong else source
        if chosen and rng.random() < CROP_SHARE:
            view = _crop(source, source.instances & 1 > 0, record, size, strong, rng)
            if view is not None:
                return view, [PseudoTarget(view.target, chosen[0].contrast >= POINT_CONTRAST)]
        view = random_view(source.pixels, source.labels, record, size, rng, source.instances, strong=strong)
        targets = [PseudoTarget(view.instances >> i & 1 > 0, r.contrast >= POINT_CONTRAST) for i, r in enumerate(chosen)]
        targets = [target for target in targets if np.count_nonzero(target.mask) >= MIN_PIXELS]
        return (view, targets) if targets else None

    def _annotated_view(
        self, record: Record, source: View, size: int, count: int, strong: bool, rng: np.random.Generator
    ) -> tuple[View, list[PseudoTarget]] | None:
        source = any_turn(source, rng) if strong else source
        focus = self.sampler.focus(source, record, rng)
        if focus is None:
            return None
        if rng.random() < CROP_SHARE:
            view = _crop(source, focus[1], record, size, strong, rng)
            if view is not None:
                return view, [PseudoTarget(view.target, self._is_one(source, *focus))]
        view = random_view(source.pixels, source.labels, record, size, rng, source.instances, strong=strong)
        picked = [self.sampler.focus(view, record, rng) for _ in range(count)]
        targets = [self._whole_or_part(view, *pair, rng) for pair in picked if pair is not None]
        return (view, targets) if targets else None

    def _whole_or_part(self, view: View, class_id: int, part: np.ndarray, rng: np.random.Generator) -> PseudoTarget:
        """Sometimes the whole class instead of one of its parts: no point selects that."""
        whole = view.labels == class_id
        if np.count_nonzero(whole) > np.count_nonzero(part) and rng.random() < WHOLE_SHARE:
            part = whole
        return PseudoTarget(part, self._is_one(view, class_id, part))

    @staticmethod
    def _is_one(view: View, class_id: int, target: np.ndarray) -> bool:
        """Whether a target is one structure, and not several parts of a class together."""
        parts, _ = instance_labels(view.labels, class_id, view.instances)
        return len(np.unique(parts[target & (parts > 0)])) < 2

    @staticmethod
    def _shape_view(
        record: Record, source: View, texture: np.ndarray, size: int, strong: bool, rng: np.random.Generator
    ) -> tuple[View, list[PseudoTarget]]:
        """Blends one or two groups of shapes into a view; the shapes of a group look alike."""
        source = any_turn(source, rng) if strong else source
        view = random_view(source.pixels, source.labels, record, size, rng, strong=strong)
        area = slice(view.height), slice(view.width)
        targets: list[PseudoTarget] = []
        for _ in range(int(rng.integers(1, 3))):
            taken = np.any([target.mask for target in targets], axis=0)[area] if targets else None
            blended = _blended(view.pixels[area], taken, texture, rng)
            if blended is not None:
                view.pixels[area], drawn = blended
                targets += [t.on_canvas(size) for t in drawn if np.count_nonzero(t.mask) >= MIN_PIXELS]
        return view, targets

    def _regions_of(self, record: Record, pixels: np.ndarray) -> list[Region]:
        key = record.image, record.frame
        if key not in self._regions:
            self._regions[key] = image_regions(pixels)
        return self._regions[key]


def referring_prompt(target: PseudoTarget, view: View, rng: np.random.Generator) -> Sample:
    """A box, point, rough mask, or a box with a point, without a name."""
    kinds = POINTABLE if target.pointable or target.neighbour is not None else BOUNDED
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    text = question("what", rng=rng) if rng.random() < QUESTION_SHARE else ""
    sample = Sample(text, "", target.mask)
    inside = target.mask[: view.height, : view.width]
    if kind in ("box", "mixed"):
        sample.boxes = [jitter_box(inside, rng, float(rng.choice(LOOSENESS)))]
    if kind == "rough":
        sample.rough = rough_mask(inside, rng)
    if kind in ("point", "mixed"):
        for _ in range(int(rng.choice([1, 2, 3], p=[0.75, 0.15, 0.1]))):
            x, y = interior_point(inside, rng)
            sample.points.append((x + 0.5, y + 0.5, 1))
        excluded = _excluded(target, inside, rng)
        if excluded is not None:
            sample.points.append((excluded[0] + 0.5, excluded[1] + 0.5, 0))
    return sample


def _excluded(target: PseudoTarget, inside: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """A negative point: always in a neighbour that looks the same, else sometimes near the target."""
    if target.neighbour is not None:
        neighbour = target.neighbour[: inside.shape[0], : inside.shape[1]]
        return interior_point(neighbour, rng)
    return negative_point(inside, rng, 0.8) if rng.random() < 0.25 else None


def _blended(
    pixels: np.ndarray, taken: np.ndarray | None, texture: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[PseudoTarget]] | None:
    """Shapes of one layout outside of ``taken``: the pixels with them, and the targets of the size of the pixels.

    Returns:
        None where no shape has room, size and contrast.
    """
    height, width = pixels.shape[:2]
    layout = str(rng.choice(list(LAYOUTS), p=list(LAYOUTS.values())))
    for _ in range(SHAPE_TRIES):
        shapes = [random_shape(height, width, rng)]
        if np.count_nonzero(shapes[0]) < MIN_PIXELS:
            continue
        if layout == "touching":
            shapes.append(touching(shapes[0], random_shape(height, width, rng), rng))
        elif layout == "several":
            shapes += [random_shape(height, width, rng) for _ in range(int(rng.integers(1, 3)))]
            shapes = [shape for i, shape in enumerate(shapes) if not any((shape & other).any() for other in shapes[:i])]
        shapes = [shape for shape in shapes if np.count_nonzero(shape) >= MIN_PIXELS]
        union = np.any(shapes, axis=0)
        if taken is not None and (union & taken).any():
            continue
        mixed = blend(pixels, shapes, texture, rng)
        contrast = _contrast(union, mixed)
        if contrast < MIN_SHAPE_CONTRAST:
            continue
        if layout == "nested":
            return _nested(shapes[0], mixed, texture, rng)
        return mixed, _alike(shapes, layout, contrast >= POINT_CONTRAST)
    return None


def _alike(shapes: list[np.ndarray], layout: str, pointable: bool) -> list[PseudoTarget]:
    """Each shape alone; of two that touch, each excludes the other; several that are apart are also a target together."""
    if layout == "touching" and len(shapes) == 2:
        return [PseudoTarget(shape, pointable, other) for shape, other in zip(shapes, shapes[::-1])]
    targets = [PseudoTarget(shape, pointable) for shape in shapes]
    return [*targets, PseudoTarget(np.any(shapes, axis=0), False)] if len(shapes) > 1 else targets


def _nested(
    outer: np.ndarray, pixels: np.ndarray, texture: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[PseudoTarget]]:
    """Another shape inside: the whole is a target of a box or mask, the inner one also of a point."""
    inner = shrunk(outer, rng.uniform(*INNER_SIZE), interior_point(outer, rng))
    targets = [PseudoTarget(outer, False)]
    if np.count_nonzero(inner) >= MIN_PIXELS:
        mixed = blend(pixels, [inner], texture, rng)
        contrast = _contrast(inner, mixed)
        if contrast >= MIN_SHAPE_CONTRAST:
            return mixed, [*targets, PseudoTarget(inner, contrast >= POINT_CONTRAST)]
    return pixels, targets


def _contrast(mask: np.ndarray, pixels: np.ndarray) -> float:
    """:func:`boundary_contrast` in the surroundings of the mask."""
    x0, y0, x1, y1 = mask_box(mask)
    window = slice(max(0, y0 - 5), y1 + 5), slice(max(0, x0 - 5), x1 + 5)
    return boundary_contrast(mask[window], pixels[window])[0]


def _crop(source: View, target: np.ndarray, record: Record, size: int, strong: bool, rng: np.random.Generator) -> View | None:
    """The crop view of a target; None where it is too large, or out of the view."""
    view = crop_view(source.pixels, source.labels, target, record, size, rng, strong=strong)
    return view if view is not None and np.count_nonzero(view.target) >= MIN_PIXELS else None


def _on_canvas(mask: np.ndarray, size: int) -> np.ndarray:
    canvas = np.zeros((size, size), bool)
    canvas[: mask.shape[0], : mask.shape[1]] = mask
    return canvas
