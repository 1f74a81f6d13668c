"""What a batch asks about one image."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Question:
    """What is asked about one image.

    Args:
        text: a name or a question.
        boxes: each ``(x0, y0, x1, y1)`` in pixels.
        points: each ``(x, y)`` or ``(x, y, label)`` in pixels.
        mask: file of a rough mask of the size of the image; "" without one.
        frame: of a multi-frame file, or slice of a volume, from 0.
        modality: of an image that does not state it.
    """

    text: str = ""
    boxes: tuple[tuple[float, ...], ...] = ()
    points: tuple[tuple[float, ...], ...] = ()
    mask: str = field(default="", repr=False)
    frame: int = 0
    modality: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it names nothing: no text, box, point or mask."""
        return not (self.text.strip() or self.boxes or self.points or self.mask)
