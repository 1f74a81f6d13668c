"""The crop pass and the choice under a point, in Node.js against the runtime, over a world of discs instead of a model."""

from __future__ import annotations

from dataclasses import asdict, replace

import fakes
import numpy as np
import pytest

from mimo_export.web.facts_numeric import numeric_facts
from mimo_runtime.postprocessing.mask_prediction import MaskPrediction
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.refinement.config import RefinementConfig
from mimo_runtime.refinement.crops import CropRequest, contrast_table, crop_around_target
from mimo_runtime.refinement.refiner import MaskRefiner
from mimo_runtime.text.questions import subject_of

HEIGHT, WIDTH = 120, 180
CONFIG = replace(fakes.CONFIG, crop_scale=3.0, full_image_weight=0.2)
RULES = RefinementConfig.of(CONFIG)
#: Discs (x, y, radius) of the world: a small one inside a large one, and two others.
DISCS = [(50.0, 40.0, 5.0), (56.0, 44.0, 17.0), (120.0, 70.0, 7.0), (150.0, 30.0, 4.0)]
QUERIES, SIDE = CONFIG.mask_decoder.queries, CONFIG.mask_size
#: What the graphs would give for a letterbox at (left, top): query 0 draws the discs of the text, query 1 + i the i-th disc.
#: The predicted IoU follows the size of the crop. Numbers are made by the same operations in both languages.
WORLD = """
  const decode = (letterbox, left, top, text) => {
    const masks = new Float32Array(v.queries * v.side * v.side);
    const [fx, fy] = letterbox.factors;
    const drawn = (query) => (query ? v.discs.slice(query - 1, query) : text === "all" ? v.discs : v.discs.slice(0, 2));
    for (let query = 0; query < v.queries; query += 1) {
      for (let i = 0; i < v.side * v.side; i += 1) {
        const x = ((i % v.side) + 0.5) / v.side / fx + left;
        const y = (Math.floor(i / v.side) + 0.5) / v.side / fy + top;
        let best = -6;
        for (const [cx, cy, r] of drawn(query)) {
          best = Math.max(best, 6 - (6 * ((x - cx) * (x - cx) + (y - cy) * (y - cy))) / (r * r));
        }
        masks[query * v.side * v.side + i] = best;
      }
    }
    const iou = new Float32Array(v.queries).fill(0.3 + 20 / (40 + letterbox.width));
    const presence = new Float32Array(v.queries).fill(3);
    return { masks: { data: masks, dims: [1, v.queries, v.side, v.side] }, iou: { data: iou }, presence: { data: presence } };
  };
"""
CODE = (
    "(async () => { const { Letterbox } = await import(new URL('../letterbox.js', process.argv[1]));"
    " const { Prediction } = await import(new URL('./prediction.js', process.argv[1]));"
    + WORLD
    + """
  const results = [];
  for (const prompt of v.prompts) {
    const letterbox = new Letterbox(v.height, v.width, v.facts.image_size);
    const mask = prompt.mask && Uint8Array.from(prompt.mask);
    const pointed = Boolean(prompt.boxes.length || prompt.points.length || mask);
    const full = new Prediction(decode(letterbox, 0, 0, prompt.text), letterbox, v.facts, pointed);
    const crops = [];
    const refined = await m.refine(full, { ...prompt, mask }, async (crop) => {
      crops.push([crop.box, crop.prompt.text, crop.prompt.boxes, crop.prompt.points, crop.prompt.mask]);
      return decode(crop.letterbox, crop.box[0], crop.box[1], crop.prompt.text);
    });
    const lines = refined.maskLogits(0).aboveThreshold([0, 0, v.width, v.height]);
    results.push({ crops, refined: [...refined.refined], iou: refined.iou[0], mask: refined.mask(0), logits: lines });
  }
  return results; })()"""
)
SQUARE = np.zeros((HEIGHT, WIDTH), bool)
SQUARE[30:52, 40:72] = True
PROMPTS = {
    "a name": Prompt("all"),
    "a box": Prompt("", [(140, 20, 160, 42)]),
    "two boxes": Prompt("", [(40, 30, 55, 50), (60, 40, 70.5, 52)]),
    "a large box": Prompt("", [(0, 0, 170, 110)]),
    "a point in two discs": Prompt("", points=[(50, 40)]),
    "a point in one disc": Prompt("", points=[(66, 50, 1), (50, 40, 0)]),
    "a named point": Prompt("all", points=[(120, 70)]),
    "a named point beside its disc": Prompt("all", points=[(154, 34)]),
    "a point outside": Prompt("all", points=[(10, 110)]),
    "two points": Prompt("", points=[(50, 40), (60, 45)]),
    "a mask": Prompt("", mask=SQUARE),
    "a box and a point": Prompt("", [(40, 30, 70, 60)], [(50.4, 41.7)]),
    "nothing": Prompt("What do you see?"),
}  # fmt: skip


def decode(letterbox: Letterbox, left: int, top: int, text: str) -> dict[str, np.ndarray]:
    """:data:`WORLD` in Python."""
    x, y = ((np.arange(SIDE) + 0.5) / SIDE / factor + start for factor, start in zip(letterbox.factors, (left, top)))
    masks = np.full((QUERIES, SIDE, SIDE), -6.0)
    for query in range(QUERIES):
        for cx, cy, r in DISCS[query - 1 : query] if query else DISCS if text == "all" else DISCS[:2]:
            square = ((x - cx) * (x - cx))[None] + ((y - cy) * (y - cy))[:, None]
            masks[query] = np.maximum(masks[query], 6 - (6 * square) / (r * r))
    iou = np.full((1, QUERIES), 0.3 + 20 / (40 + letterbox.width), np.float32)
    return {"masks": masks[None].astype(np.float32), "iou": iou, "presence": np.full((1, QUERIES), 3, np.float32)}


def test_the_same_crops_and_masks_as_the_runtime(node):
    prompts = [
        {
            "text": p.text, "boxes": p.boxes, "points": p.points, "isNamed": bool(subject_of(p.text)),
            "mask": None if p.mask is None else p.mask.reshape(-1).astype(int).tolist(),
        }
        for p in PROMPTS.values()
    ]  # fmt: skip
    facts = numeric_facts(CONFIG, None)
    results = node.call(
        "numeric/refiner",
        CODE,
        prompts=prompts,
        facts=facts,
        height=HEIGHT,
        width=WIDTH,
        discs=DISCS,
        queries=QUERIES,
        side=SIDE,
    )
    refined, passes = set(), 0
    for (name, prompt), result in zip(PROMPTS.items(), results, strict=True):
        letterbox, crops = Letterbox(HEIGHT, WIDTH, CONFIG.image_size), []

        def segment(crop: CropRequest, crops: list = crops) -> dict[str, np.ndarray]:
            mask = None if crop.prompt.mask is None else crop.prompt.mask.reshape(-1).astype(int).tolist()
            crops.append([list(crop.crop_box), crop.prompt.text, _lists(crop.prompt.boxes), _lists(crop.prompt.points), mask])
            return decode(crop.letterbox, *crop.crop_box[:2], crop.prompt.text)

        full = MaskPrediction(decode(letterbox, 0, 0, prompt.text), letterbox, CONFIG, points_at_target=prompt.has_references)
        expected = MaskRefiner.of(CONFIG).refine(full, prompt, segment)
        assert result["crops"] == crops, name
        assert result["refined"] == sorted(expected.refined) and result["iou"] == expected.iou[0], name
        assert result["mask"] == expected.mask(0).reshape(-1).astype(int).tolist(), name
        assert np.array_equal(np.float32(result["logits"]), expected.mask_logits(0).above_threshold().reshape(-1)), name
        refined |= {0 in expected.refined}
        passes += len(crops)
    assert refined == {True, False} and passes > 2 * len(PROMPTS)


def _lists(rows: object) -> list[list[float]]:
    return [list(row) for row in rows]


def test_crops_lie_where_those_of_the_runtime_lie(node):
    rng, cases = np.random.default_rng(3), []
    for _ in range(200):
        height, width = (int(v) for v in rng.integers(24, 300, 2))
        x0, y0 = int(rng.integers(0, width)), int(rng.integers(0, height))
        target = (x0, y0, int(rng.integers(x0 + 1, width + 1)), int(rng.integers(y0 + 1, height + 1)))
        points = [(float(rng.integers(0, width)), float(rng.integers(0, height)), int(rng.integers(0, 2)))]
        cases.append((height, width, target, points[: rng.integers(0, 2)], float(rng.choice([0.0, 1.5, 3.0]))))
    code = (
        "v.cases.map(([height, width, target, points, scale]) => m.cropAroundTarget("
        "{ text: '', boxes: [], points, mask: null }, target, height, width, 128, { ...v.rules, crop_scale: scale }))"
    )
    results = node.call("numeric/crops", code, cases=cases, rules=asdict(RULES))
    for (height, width, target, points, scale), result in zip(cases, results, strict=True):
        crop = crop_around_target(Prompt("x", points=points), target, height, width, 128, replace(RULES, crop_scale=scale))
        if crop is None:
            assert result is None
            continue
        assert (result["box"], result["prompt"]["boxes"]) == (list(crop.crop_box), _lists(crop.prompt.boxes))
        assert (result["letterbox"]["newWidth"], result["letterbox"]["newHeight"]) == (
            crop.letterbox.new_width, crop.letterbox.new_height,
        )  # fmt: skip


@pytest.mark.parametrize("spread", [0, 1, 8, 40, 255])
def test_contrast_is_stretched_by_the_same_table(node, spread: int):
    rng = np.random.default_rng(spread)
    pixels = np.clip(rng.normal(120, max(spread, 0.01), (37, 23, 3)), 0, 255).astype(np.uint8)
    assert node.call(
        "numeric/crops", "m.contrastTable(Uint8Array.from(v.pixels), v.rules)", pixels=pixels, rules=asdict(RULES)
    ) == (contrast_table(pixels, RULES).tolist())
    code = "m.cropPixels(Uint8Array.from(v.pixels), 23, [3, 5, 20, 30], v.rules)"
    crop = pixels[5:30, 3:20]
    assert (
        node.call("numeric/crops", code, pixels=pixels, rules=asdict(RULES))
        == contrast_table(crop, RULES)[crop].ravel().tolist()
    )
