"""A model without weights that segments what is bright, for sequences of discs.

The mask of query 0 is the bright pixels: all of them for a name, within the boxes, or near the mask prompt. It is present if
there are any. ``features_8`` carries red, green, blue and the differences of the first two, so that discs of different colours
differ in appearance.
"""

from __future__ import annotations

import numpy as np
from fakes import CONFIG, FakeEngine, tokenizer

from mimo_runtime.model.config import MimoConfig
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.pipeline import Mimo

SIZE = 64
RED, GREEN = (250, 120, 120), (120, 250, 120)


class BrightEngine(FakeEngine):
    """The graphs of the model; see the module."""

    def _vision_encoder(self, x):
        pixels, outputs = x["pixels"][0], {}
        for name, cell in (("features_8", 8), ("features_4", 4)):
            features = np.zeros(self.outputs[name].concrete(batch=1), np.float32)
            side = features.shape[-1]
            colours = pixels.reshape(3, side, cell, side, cell).mean((2, 4))
            features[0, :3] = colours
            features[0, 3], features[0, 4] = colours[0] - colours[1], colours[1] - colours[0]
            outputs[name] = features
        return outputs

    def _mask_decoder(self, x):
        side, queries = self.config.mask_size, self.config.mask_decoder.queries
        brightness = x["features_4"][0, :3].max(axis=0)
        bright = np.kron(brightness, np.ones((side // len(brightness),) * 2)) > 0.4
        references = x["reference_map"][0, [0, 3]]
        if references.any():
            near = np.kron(references.max(axis=0), np.ones((side // references.shape[-1],) * 2)) >= 0.5
            for _ in range(0 if references[0].any() else 3):  # a mask prompt reaches a little further
                padded = np.pad(near, 1)
                near = near | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
            bright &= near
        masks = np.full((1, queries, side, side), -8, np.float32)
        masks[0, 0] = np.where(bright, 8, -8)
        presence = np.full((1, queries), -4, np.float32)
        presence[0, 0] = 4 if bright.any() else -4
        return {"masks": masks, "presence": presence, "iou": np.full((1, queries), 0.9, np.float32)}


def bright_mimo(delay: float = 0.0, config: MimoConfig = CONFIG) -> Mimo:
    """The model; ``delay`` seconds per graph."""
    return Mimo(config, {graph: BrightEngine(graph, config, delay) for graph in GRAPHS}, tokenizer(), {"id": "bright"})


def disc(x: float, y: float, radius: float = 9.0, colour: tuple[int, int, int] = RED, stretch: float = 1.0) -> np.ndarray:
    """uint8 ``[64, 64, 3]``: a disc, or an ellipse, on dark ground; outside of the frame for a centre outside."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    inside = ((columns - x) * stretch) ** 2 + ((rows - y) / stretch) ** 2 <= radius**2
    pixels = np.full((SIZE, SIZE, 3), 10, np.uint8)
    pixels[inside] = colour
    return pixels


def box_around(x: float, y: float, radius: float = 11.0) -> tuple[float, float, float, float]:
    """A box with a margin around a disc."""
    return x - radius, y - radius, x + radius, y + radius
