"""Where tiles lie, and the weights that blend them: at every pixel of the image they sum to one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import PromptError
from ..utils.arguments import is_whole
from ..utils.messages import shown

#: ``(x0, y0, x1, y1)`` in pixels of the image; the last two are exclusive.
PixelBox = tuple[int, int, int, int]
#: What ``Scan.ask(tiles=)`` takes: "auto", the side in pixels, or the side and the overlap.
TileArgument = str | int | tuple[int, int]

AUTO = "auto"
#: Overlap as a share of the side, where none is stated: an object of up to this size lies wholly within some tile.
OVERLAP = 0.25
#: Shortest side: a smaller tile holds no context.
MIN_SIDE = 32
#: Most tiles of one image: each takes the time of another image.
MAX_TILES = 1024
#: With "auto", images up to this multiple of the model's input are not cut: the full image shows as much.
AUTO_SCALE = 1.5
#: Pixels at the border of a tile that do not count where another tile shows them, as a share of the overlap. The model has no
#: context beyond the border.
BORDER = 0.125


@dataclass(frozen=True)
class Tiles:
    """Squares of ``side`` pixels that overlap by at least ``overlap`` pixels.

    Args:
        side: in pixels of the image; 0 is chosen by the model's input, see :meth:`fitted`.
        overlap: in pixels; None is a quarter of the side.
    """

    side: int = 0
    overlap: int | None = None

    @staticmethod
    def of(value: TileArgument | Tiles) -> Tiles:
        """Of the argument of ``Scan.ask``. Raises PromptError for what cannot be read."""
        if isinstance(value, Tiles):
            return value
        if isinstance(value, str) and value == AUTO:
            return Tiles()
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) not in (1, 2) or not all(is_whole(number) for number in numbers):
            raise PromptError(f"tiles is {shown(value)}", 'Use "auto", a side in pixels, or (side, overlap)')
        return Tiles(*(int(number) for number in numbers)).checked()

    def checked(self) -> Tiles:
        """Itself. Raises PromptError for a side or an overlap that makes no sense for any image."""
        if self.side < MIN_SIDE:
            raise PromptError(f"a tile of {self.side} pixels is too small", f"Use at least {MIN_SIDE}")
        if self.overlap is not None and not 0 <= self.overlap <= self.side // 2:
            problem = f"tiles of {self.side} pixels cannot overlap by {self.overlap}"
            raise PromptError(problem, f"Use 0 to {self.side // 2}")
        return self

    def fitted(self, height: int, width: int, size: int) -> TileGrid | None:
        """The tiles of an image of ``height x width`` pixels.

        Args:
            size: side of the model's input in pixels: that of the tiles where none is stated.

        Returns:
            None where one tile shows the whole image, and with "auto" where the image is little larger than the input.

        Raises:
            PromptError: a tile is larger than the image, or there are more than :data:`MAX_TILES`.
        """
        longer = max(height, width)
        if not self.side and longer <= AUTO_SCALE * size:
            return None
        side = self.side or size
        if side > longer:
            problem = f"a tile of {side} pixels is larger than the image of {width} x {height}"
            raise PromptError(problem, "Use a smaller one, or leave tiles out")
        overlap = round(OVERLAP * side) if self.overlap is None else self.overlap
        grid = TileGrid(_axis(width, side, overlap), _axis(height, side, overlap), side)
        if len(grid) > MAX_TILES:
            raise PromptError(f"the image has {len(grid)} tiles of {side} pixels", f"Use larger ones: at most {MAX_TILES}")
        return grid if len(grid) > 1 else None


@dataclass(frozen=True)
class TileAxis:
    """The tiles along one axis.

    Args:
        extent: of the image in pixels.
        side: of the tiles, at most ``extent``.
        starts: first pixel of each, rising.
    """

    extent: int
    side: int
    starts: tuple[int, ...]

    def weights(self) -> list[np.ndarray]:
        """Of every tile, float64 ``[side]``: 1 where no other tile reaches, a ramp where two overlap."""
        ramps = np.zeros((len(self.starts), self.extent))
        pairs = list(zip(self.starts, self.starts[1:]))
        places = np.arange(self.side) + 0.5
        for number, start in enumerate(self.starts):
            ramp = np.ones(self.side)
            if number:
                ramp = np.minimum(ramp, _ramp(places, pairs[number - 1][0] + self.side - start))
            if number < len(pairs):
                ramp = np.minimum(ramp, _ramp(self.side - places, start + self.side - pairs[number][1]))
            ramps[number, start : start + self.side] = ramp
        ramps /= ramps.sum(axis=0)
        return [row[start : start + self.side] for row, start in zip(ramps, self.starts)]


@dataclass(frozen=True)
class TileGrid:
    """All tiles of an image.

    Args:
        columns, rows: along x and along y.
        side: as stated, in pixels; a tile is shorter along an axis that is shorter.
    """

    columns: TileAxis
    rows: TileAxis
    side: int

    def __len__(self) -> int:
        return len(self.columns.starts) * len(self.rows.starts)

    def __iter__(self) -> Iterator[PixelBox]:
        """The boxes, row by row."""
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield left, top, left + self.columns.side, top + self.rows.side

    def weights(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of every tile, in the order of the boxes: those of its rows and of its columns, whose outer product is its weight."""
        across = self.columns.weights()
        for down in self.rows.weights():
            for along in across:
                yield down, along


def _axis(extent: int, side: int, overlap: int) -> TileAxis:
    """Evenly spread tiles: the first begins and the last ends with the image."""
    side = min(side, extent)
    count = 1 if side == extent else math.ceil((extent - overlap) / (side - overlap))
    last = extent - side
    return TileAxis(extent, side, tuple(round(last * number / max(1, count - 1)) for number in range(count)))


def _ramp(places: np.ndarray, overlap: int) -> np.ndarray:
    """0 to 1 over an overlap, from the distances to the border of the tile; flat at both of its ends."""
    if overlap <= 0:
        return np.ones_like(places)
    border = BORDER * overlap
    rising: np.ndarray = np.clip((places - border) / max(0.5, overlap - 2 * border), 0, 1)
    return rising
