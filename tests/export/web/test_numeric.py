"""``page/numeric`` in Node.js against the modules of the runtime that it mirrors, on random inputs."""

from __future__ import annotations

from dataclasses import replace

import fakes
import numpy as np
import pytest

from mimo_export.web.facts_numeric import numeric_facts
from mimo_runtime.clinical.coco import encode_mask
from mimo_runtime.errors import EngineError
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.modalities import KNOWN, canonical, contradict
from mimo_runtime.model.config import ContourCalibration, PresenceCalibration
from mimo_runtime.model.output_check import check_outputs
from mimo_runtime.postprocessing.contours import CropLogits, MaskLogits, dilate, inner_and_outer
from mimo_runtime.postprocessing.mask_prediction import MaskPrediction
from mimo_runtime.postprocessing.measure import longest_diameter
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.findings import finding_of, sizes_of
from mimo_runtime.text.questions import target_of

CONFIG = replace(
    fakes.CONFIG,
    presence_threshold=0.4, presence_temperature=1.3, entity_threshold=0.6, abstain_threshold=0.35, mask_threshold=0.45,
    contours=(
        ContourCalibration("", "box", 0.0, 0.5, 30), ContourCalibration("", "box", 0.3, 0.8, 25, 0.2),
        ContourCalibration("", "point", 1.2, 9.0, 30), ContourCalibration("", "mask", 1.2, 1.0, 30, 0.99),
        ContourCalibration("liver", "name", 0.4, 0.9, 20), ContourCalibration("aorta", "name", 0.6, 1.2, 20, 0.01),
        ContourCalibration("aorta", "point", 1.0, 2.0, 20), ContourCalibration("polyp", "mask", 0.2, 0.1, 20),
    ),
    presence_calibration=(PresenceCalibration("", 0.2, 90), PresenceCalibration("spleen", 0.01, 30)),
)  # fmt: skip
FACTS = numeric_facts(CONFIG, None)
SIZES = [(60, 100), (131, 90), (33, 64)]
#: Makes the prediction p of the values of ``prediction_of``.
MAKE = (
    "(async () => { const { Letterbox } = await import(new URL('../letterbox.js', process.argv[1]));"
    " const { Prediction } = await import(new URL('./prediction.js', process.argv[1]));"
    " const letterbox = new Letterbox(v.height, v.width, v.facts.image_size);"
    " const masks = { data: Float32Array.from(v.masks), dims: [1, v.presence.length, v.side, v.side] };"
    " const p = new Prediction({ masks, presence: { data: v.presence }, iou: { data: v.iou } }, letterbox, v.facts, v.pointed);"
    " return %s; })()"
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def smooth(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    """Random logits in blobs of several cells, float32 ``[count, side, side]``."""
    coarse = rng.normal(0, 4, (count, side // 8 + 1, side // 8 + 1)).astype(np.float32)
    return np.repeat(np.repeat(coarse, 8, 1), 8, 2)[:, :side, :side] + rng.normal(0, 1, (count, side, side)).astype(np.float32)


def prediction_of(rng: np.random.Generator, height: int, width: int, pointed: bool = False) -> tuple[MaskPrediction, dict]:
    """A prediction of random outputs, and its values for the page."""
    queries, side = CONFIG.mask_decoder.queries, CONFIG.mask_size
    outputs = {
        "masks": smooth(rng, queries, side)[None],
        "presence": rng.normal(0, 1.5, (1, queries)).astype(np.float32),
        "iou": rng.random((1, queries)).astype(np.float32),
    }
    letterbox = Letterbox(height, width, CONFIG.image_size)
    values = {"height": height, "width": width, "side": side, "facts": FACTS, "pointed": pointed, **outputs}
    return MaskPrediction(outputs, letterbox, CONFIG, points_at_target=pointed), values


def shown(mask: np.ndarray | None) -> list[int] | None:
    return None if mask is None else mask.reshape(-1).astype(int).tolist()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_presence_and_centres_of_all_queries(node, height: int, width: int, rng):
    prediction, values = prediction_of(rng, height, width, pointed=True)
    queries = range(CONFIG.mask_decoder.queries + 1)
    code = (
        "{ masks: v.queries.map((q) => p.mask(q)), presence: p.presence, entities: p.entities(),"
        " centres: v.queries.map((q) => p.centre(q)), cover: v.queries.slice(0, -1).map((q) => p.mayCover(q, 20, 30)) }"
    )
    result = node.call("numeric/prediction", MAKE % code, queries=list(queries), **values)
    assert result["masks"] == [shown(prediction.mask(query)) for query in queries]
    assert sum(mask is not None for mask in result["masks"]) >= 3
    assert np.allclose(result["presence"], prediction.presence, rtol=1e-12)
    assert dict(result["entities"]) == prediction.entities()
    centres = [prediction.centre(query) for query in queries]
    assert result["centres"][-1] is centres[-1] is None and np.allclose(result["centres"][:-1], centres[:-1], atol=1e-6)
    assert result["cover"] == [prediction.may_cover(query, 20, 30) for query in queries[:-1]]


def test_presumed_and_excluded_queries(node, rng):
    prediction, values = prediction_of(rng, 60, 100)
    low = [int(query) for query in np.flatnonzero(prediction.presence < CONFIG.presence_threshold)][:4]
    threshold = float(prediction.presence[low].mean())
    presumed = prediction.with_threshold(low, threshold)
    code = "v.low.map((q) => p.mask(q) && p.withThreshold(v.low, v.threshold).mask(q))"
    assert node.call("numeric/prediction", MAKE % code, low=low, threshold=threshold, **values) == [None] * len(low)
    code = "v.low.map((q) => { p.mask(q); return p.withThreshold(v.low, v.threshold).mask(q); })"
    result = node.call("numeric/prediction", MAKE % code, low=low, threshold=threshold, **values)
    assert result == [shown(presumed.mask(query)) for query in low] and any(result) and None in result
    code = "(() => { const q = p.without([1, 2]); return [q.mask(1), q.presence[2], p.presence[2]]; })()"
    absent = node.call("numeric/prediction", MAKE % code, **values)
    assert absent[:2] == [None, 0] and absent[2] == pytest.approx(prediction.presence[2])


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.9, 7.000001, 300.0])
def test_dilation_by_a_disc(node, radius: float, rng):
    mask = rng.random((41, 67)) > 0.985
    assert node.call("numeric/contours", "m.dilate(Uint8Array.from(v.mask), 67, 41, v.r)", mask=mask, r=radius) == shown(
        dilate(mask, radius)
    )


@pytest.mark.parametrize(("inner", "outer"), [(0.0, 0.0), (0.6, 1.3), (2.0, 4.0)])
@pytest.mark.parametrize("cropped", [False, True])
def test_contours_with_and_without_a_crop(node, inner: float, outer: float, cropped: bool, rng):
    height, width, side = 90, 140, CONFIG.mask_size
    letterbox, box = Letterbox(height, width, 128), (20, 10, 75, 60)
    near = Letterbox(50, 55, 128)
    grids = smooth(rng, 2, side)
    crop = CropLogits(grids[1], near, box, 0.3) if cropped else None
    logits = MaskLogits(grids[0], letterbox, -0.2, crop)
    mask = logits.above_threshold() >= 0.5
    expected = inner_and_outer(mask, ContourCalibration("", "name", inner, outer), logits)
    code = (
        "(async () => { const { Letterbox } = await import(new URL('../letterbox.js', process.argv[1]));"
        " const grids = v.grids.map((grid) => Float32Array.from(grid));"
        " const crop = v.cropped ? { grid: grids[1], letterbox: new Letterbox(50, 55, 128), box: v.box, weight: 0.3 } : null;"
        " const logits = new m.MaskLogits(grids[0], v.side, new Letterbox(90, 140, 128), -0.2, crop);"
        " return m.innerAndOuter(Uint8Array.from(v.mask), 140, 90, v.entry, logits, v.rules); })()"
    )
    result = node.call(
        "numeric/contours", code, grids=[grid.reshape(-1).tolist() for grid in grids], side=side, cropped=cropped, box=box,
        mask=mask, entry={"inner": inner, "outer": outer}, rules=FACTS["contour_rules"],
    )  # fmt: skip
    assert [result["inner"], result["outer"]] == [shown(one) for one in expected]


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt("liver"), Prompt("spleen"), Prompt("What do you see?"), Prompt("", [(10, 10, 40, 50)]),
        Prompt("Where is the aorta?", points=[(5, 5, 1), (9, 9, 0)]), Prompt("polyp", mask=np.ones((60, 100), bool)),
        Prompt("liver", points=[(9, 9, 0)]),
    ],
    ids=str,
)  # fmt: skip
def test_findings_with_their_contours_and_guarantees(node, prompt: Prompt, rng):
    prediction, values = prediction_of(rng, 60, 100, prompt.has_references)
    own, values_of_own = prediction_of(rng, 60, 100)
    refined = own.with_target(np.ones((60, 100), bool), 0.7, own.full_image_logits(3), refined=True)
    prediction = prediction.with_names({2: refined, 3: own, 4: own.without([0])})
    image = ScanImage(np.zeros((60, 100, 3), np.uint8), (0.7, 0.9))
    chosen = [("the target", 0), *((name, 1 + i) for i, name in enumerate(CONFIG.entities)), ("other", 9)]
    request = {
        "boxes": prompt.boxes, "points": prompt.points, "mask": prompt.mask, "target": target_of(prompt.text),
    }  # fmt: skip
    code = (
        "(async () => { const { findingOf } = await import(new URL('./findings.js', process.argv[1]));"
        " const tensor = (name) => ({ data: Float32Array.from(v.own[name]), dims: masks.dims });"
        " const own = new Prediction({ masks: tensor('masks'), presence: tensor('presence'), iou: tensor('iou') }, letterbox,"
        " v.facts, false);"
        " const refined = own.withTarget(new Uint8Array(6000).fill(1), 0.7, own.fullImageLogits(3), true);"
        " const named = p.withNames(new Map([[2, refined], [3, own], [4, own.without([0])]]));"
        " const options = { spacing: [0.7, 0.9], withDiameter: true, contours: true };"
        " return v.chosen.map(([name, query]) => findingOf(named, name, query, v.request, options)); })()"
    )
    result = node.call("numeric/prediction", MAKE % code, chosen=chosen, request=request, own=values_of_own, **values)
    for (phrase, query), found in zip(chosen, result, strict=True):
        finding = finding_of(prediction, phrase, query, prompt)
        area, diameter_mm, diameter = sizes_of(finding, image, with_diameter=True)
        sized = replace(finding, area_mm2=area, longest_diameter_mm=diameter_mm, longest_diameter_px=diameter)
        masks = {"mask": finding.mask, "inner": finding.inner, "outer": finding.outer}
        expected = {**sized.to_dict(), **{name: mask if mask is None else encode_mask(mask) for name, mask in masks.items()}}
        assert found == _close(expected, found)


#: Digits after the point of the sizes of a finding; other numbers have six.
SIZES_IN_JSON = dict.fromkeys(("area_mm2", "longest_diameter_mm", "longest_diameter_px"), 3)


def _close(expected: dict, found: dict) -> dict:
    """The expected values, where a real number may differ by one in its last digit."""
    near = {
        name: found[name]
        for name, value in expected.items()
        if isinstance(value, float) and abs(found[name] - value) <= 1.1 * 10.0 ** -SIZES_IN_JSON.get(name, 6)
    }
    return {**expected, **near}


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.3, 2.5)])
def test_the_longest_diameter(node, spacing: tuple[float, float], rng):
    for mask in (rng.random((30, 50)) > 0.99, np.eye(12, dtype=bool), np.ones((1, 1), bool)):
        height, width = mask.shape
        code = f"m.longestDiameter(Uint8Array.from(v.mask), {width}, {height}, v.spacing, v.bias)"
        length = node.call("numeric/measure", code, mask=mask, spacing=spacing, bias=FACTS["centre_bias"])
        assert length == pytest.approx(longest_diameter(mask, spacing).length, rel=1e-12)


def test_words_for_modalities(node):
    words = [*KNOWN, "own word", "CT", " MR ", "US", "", "OPT"]
    code = (
        "[v.words.map((w) => m.canonical(w, v.facts.modalities)), v.known.flatMap((a) => v.known.map((b) =>"
        " m.contradict(a, b, v.facts.modalities)))]"
    )
    names, pairs = node.call("numeric/modalities", code, words=words, known=[*KNOWN, "own"], facts=FACTS)
    assert names == [canonical(word) for word in words]
    assert pairs == [contradict(a, b) for a in [*KNOWN, "own"] for b in [*KNOWN, "own"]]


@pytest.mark.parametrize(
    ("name", "value"), [("masks", 1e5), ("masks", -65504), ("masks", 65505), ("iou", 1.001), ("iou", 1.01), ("iou", -0.01)]
)
def test_outputs_out_of_range_are_a_fault(node, name: str, value: float):
    try:
        check_outputs("mask_decoder", {name: np.array([0.5, value], np.float32)})
        is_fine = True
    except EngineError:
        is_fine = False
    code = (
        "(() => { try { m.checkOutputs('mask_decoder', { [v.name]: { type: 'float32', data: Float32Array.of(0.5, v.value) } },"
        " v.rules); return true; } catch { return false; } })()"
    )
    assert node.call("numeric/output_check", code, name=name, value=value, rules=FACTS["outputs"]) is is_fine
    code = "(() => { try { m.checkOutputs('g', { x: { type: 'float32', data: [NaN] } }, v.rules); } catch { return 1; } })()"
    assert node.call("numeric/output_check", code, rules=FACTS["outputs"]) == 1
