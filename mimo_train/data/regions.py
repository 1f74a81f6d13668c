"""Regions of an image that their boundary determines, at several scales, without any annotation.

Superpixels (Felzenszwalb and Huttenlocher 2004) are merged pair by pair into a tree. Every node of the tree is a candidate; the
ones with a closed visible boundary stay.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from PIL import Image

#: Area of a region as a share of the image.
REGION_AREA = (0.003, 0.5)
#: Smallest share of the convex hull, and of the box, that a region covers.
MIN_SOLIDITY, MIN_EXTENT = 0.6, 0.35
#: Smallest boundary contrast of a region, and that of one which a point alone selects.
MIN_CONTRAST, POINT_CONTRAST = 1.0, 2.0
#: Smallest share of the directions from the centre in which the boundary is visible.
MIN_CLOSED = 0.75
#: Most regions kept for an image; two regions with a larger IoU count as one.
MAX_REGIONS, SAME_REGION_IOU = 16, 0.75
#: Most nodes of the tree that are examined: those that persist longest.
MAX_CANDIDATES = 48
#: Images are reduced to this side for the search, which makes it three times faster.
REDUCED_SIDE = 160
#: Width in pixels of the bands on both sides of a boundary.
BAND = 2
#: Directions in which a boundary is compared.
SECTORS = 12


@dataclass(frozen=True)
class Region:
    """A region, stored as the bits of its box in a reduced image.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the reduced image; bits: the mask inside the box, packed.
        height, width: of the reduced image; contrast: see :func:`boundary_contrast`.
    """

    box: tuple[int, int, int, int]
    bits: np.ndarray
    height: int
    width: int
    contrast: float

    def reduced_mask(self) -> np.ndarray:
        """bool [height, width] of the reduced image."""
        x0, y0, x1, y1 = self.box
        mask = np.zeros((self.height, self.width), bool)
        mask[y0:y1, x0:x1] = np.unpackbits(self.bits, count=(y1 - y0) * (x1 - x0)).reshape(y1 - y0, x1 - x0)
        return mask

    def mask(self, height: int, width: int) -> np.ndarray:
        """bool [height, width] of the image, with a smooth edge."""
        reduced = Image.fromarray(self.reduced_mask().astype(np.uint8) * 255)
        return np.asarray(reduced.resize((width, height), Image.Resampling.BILINEAR)) > 127


def image_regions(pixels: np.ndarray) -> list[Region]:
    """The regions of uint8 [H, W, 3], the one with most contrast first."""
    from skimage.segmentation import felzenszwalb

    image = Image.fromarray(pixels)
    image.thumbnail((REDUCED_SIDE, REDUCED_SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    least = max(8, round(0.0008 * height * width))
    superpixels = felzenszwalb(pixels, scale=40, sigma=0.7, min_size=least)
    nodes = [node for node in merge_tree(superpixels, pixels) if _has_fit_box(node, height, width)]
    nodes.sort(key=lambda node: -node.persistence)
    candidates = [_region(superpixels, node, pixels) for node in nodes[:MAX_CANDIDATES]]
    regions = sorted(filter(None, candidates), key=lambda region: -region.contrast)
    kept: list[tuple[Region, np.ndarray]] = []
    for region in regions:
        mask = region.reduced_mask()
        if len(kept) < MAX_REGIONS and all(_iou(mask, other) < SAME_REGION_IOU for _, other in kept):
            kept.append((region, mask))
    return [region for region, _ in kept]


@dataclass
class Node:
    """A node of the tree of merges.

    Attributes:
        leaves: its superpixels; area: in pixels; mean: [3] colour; box: x0, y0, x1, y1, the last two exclusive.
        cost: of the merge that formed it, 0 for a superpixel.
        persistence: cost of the merge that ends it, as a multiple of its own.
    """

    leaves: list[int]
    area: float
    mean: np.ndarray
    box: np.ndarray
    cost: float = 0.0
    persistence: float = 0.0


def merge_tree(superpixels: np.ndarray, pixels: np.ndarray) -> list[Node]:
    """Merge superpixels to the whole image; all nodes of the tree.

    The pair with the least increase of variance, tempered by a square root so that small regions do not all go first, is merged
    next.

    Args:
        superpixels: int [H, W] from 0 without gaps; pixels: uint8 [H, W, 3].
    """
    nodes = _leaves(superpixels, pixels)
    neighbours = _neighbours(superpixels, len(nodes))
    alive = set(range(len(nodes)))

    def cost(a: int, b: int) -> float:
        one, other = nodes[a], nodes[b]
        difference = one.mean - other.mean
        return float(difference @ difference) * (one.area * other.area / (one.area + other.area)) ** 0.5

    heap = [(cost(a, b), a, b) for a in alive for b in neighbours[a] if a < b]
    heapq.heapify(heap)
    while heap:
        value, a, b = heapq.heappop(heap)
        if a not in alive or b not in alive:
            continue
        one, other, new = nodes[a], nodes[b], len(nodes)
        for node in (one, other):
            node.persistence = value / (node.cost + 50.0)
        area = one.area + other.area
        mean = (one.area * one.mean + other.area * other.mean) / area
        box = np.concatenate([np.minimum(one.box[:2], other.box[:2]), np.maximum(one.box[2:], other.box[2:])])
        nodes.append(Node(one.leaves + other.leaves, area, mean, box, value))
        alive -= {a, b}
        neighbours.append((neighbours[a] | neighbours[b]) & alive)
        for n in neighbours[new]:
            neighbours[n].add(new)
            heapq.heappush(heap, (cost(n, new), n, new))
        alive.add(new)
    return nodes


def _leaves(superpixels: np.ndarray, pixels: np.ndarray) -> list[Node]:
    from scipy.ndimage import find_objects

    flat = superpixels.ravel()
    area = np.bincount(flat).astype(float)
    channels = pixels.reshape(-1, 3)
    mean = np.stack([np.bincount(flat, channels[:, c]) for c in range(3)], 1) / area[:, None]
    boxes = [np.array((x.start, y.start, x.stop, y.stop)) for y, x in find_objects(superpixels + 1)]
    return [Node([i], area[i], mean[i], boxes[i]) for i in range(len(area))]


def _has_fit_box(node: Node, height: int, width: int) -> bool:
    """Whether area and box leave a chance that the node is a region, and not the background or the frame of the image."""
    low, high = (share * height * width for share in REGION_AREA)
    x0, y0, x1, y1 = node.box
    touched = (x0 == 0) + (y0 == 0) + (x1 == width) + (y1 == height)
    whole = x1 - x0 > 0.95 * width and y1 - y0 > 0.95 * height
    return low <= node.area <= high and node.area >= MIN_EXTENT * (x1 - x0) * (y1 - y0) and touched <= 2 and not whole


def boundary_contrast(mask: np.ndarray, pixels: np.ndarray) -> tuple[float, float]:
    """How well a boundary is visible.

    Args:
        mask: bool [H, W], not empty; pixels: uint8 [H, W, 3].

    Returns:
        The difference of the bands inside and outside the boundary in standard deviations, and the share of the directions from
        the centre in which the bands differ in the same way.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    outer = binary_dilation(mask, iterations=BAND) & ~mask
    inner = mask & ~binary_erosion(mask, iterations=BAND)
    if not outer.any():
        return 0.0, 0.0
    inside, outside = pixels[inner].astype(np.float32), pixels[outer].astype(np.float32)
    difference = inside.mean(0) - outside.mean(0)
    length = float(np.linalg.norm(difference))
    if length < 1.0:
        return 0.0, 0.0
    direction = difference / length
    inside, outside = inside @ direction, outside @ direction
    spread = (0.5 * (inside.var() + outside.var())) ** 0.5 + 3.0
    places = np.argwhere(mask).mean(0)
    sides = [_by_sector(values, np.argwhere(band) - places) for values, band in ((inside, inner), (outside, outer))]
    steps = sides[0] - sides[1]
    steps = steps[np.isfinite(steps)]
    return length / float(spread), float(np.mean(steps > 0.4 * length)) if len(steps) else 0.0


def _by_sector(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """[SECTORS] means of values by their direction; NaN where there is none."""
    sector = ((np.arctan2(offsets[:, 0], offsets[:, 1]) / (2 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS
    count = np.bincount(sector, minlength=SECTORS)
    total = np.bincount(sector, values, SECTORS)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def solidity(mask: np.ndarray) -> float:
    """Area as a share of the area of the convex hull."""
    from scipy.spatial import ConvexHull

    rows = np.flatnonzero(mask.any(1))
    first, last = mask[rows].argmax(1), mask.shape[1] - mask[rows, ::-1].argmax(1)
    corners = [(x, y + dy) for y, x0, x1 in zip(rows, first, last) for x in (x0, x1) for dy in (0, 1)]
    return float(np.count_nonzero(mask) / ConvexHull(np.array(corners, float)).volume)


def _region(superpixels: np.ndarray, node: Node, pixels: np.ndarray) -> Region | None:
    """The smoothed region without small holes; None if its shape or boundary does not determine it."""
    from scipy.ndimage import binary_fill_holes, find_objects, gaussian_filter, label

    x0, y0, x1, y1 = map(int, node.box)
    left, top = max(0, x0 - BAND - 2), max(0, y0 - BAND - 2)
    window = slice(top, y1 + BAND + 2), slice(left, x1 + BAND + 2)
    chosen = np.zeros(int(superpixels.max()) + 1, bool)
    chosen[node.leaves] = True
    filled = binary_fill_holes(chosen[superpixels[window]])
    if np.count_nonzero(filled) > 1.15 * node.area:
        return None
    parts, count = label(gaussian_filter(filled.astype(np.float32), 1.0) > 0.5)
    if not count:
        return None
    largest = int(np.argmax(np.bincount(parts.ravel())[1:]))
    smooth, inner = parts == 1 + largest, find_objects(parts)[largest]
    tight = smooth[inner]
    if np.count_nonzero(tight) < max(0.7 * node.area, MIN_EXTENT * tight.size) or solidity(tight) < MIN_SOLIDITY:
        return None
    contrast, closed = boundary_contrast(smooth, pixels[window])
    if contrast < MIN_CONTRAST or closed < MIN_CLOSED:
        return None
    rows, columns = inner
    box = left + columns.start, top + rows.start, left + columns.stop, top + rows.stop
    return Region(box, np.packbits(tight), *superpixels.shape, contrast)


def _neighbours(superpixels: np.ndarray, count: int) -> list[set[int]]:
    """For each superpixel those that touch it along an edge."""
    pairs = [
        np.stack([superpixels[:, :-1].ravel(), superpixels[:, 1:].ravel()], 1),
        np.stack([superpixels[:-1].ravel(), superpixels[1:].ravel()], 1),
    ]
    touching: list[set[int]] = [set() for _ in range(count)]
    codes = np.unique(np.concatenate([p[:, 0].astype(np.int64) * count + p[:, 1] for p in pairs]))
    for code in codes.tolist():
        a, b = divmod(code, count)
        if a != b:
            touching[a].add(b)
            touching[b].add(a)
    return touching


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))
