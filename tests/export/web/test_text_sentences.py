"""Sentences that the page without a service writes: the words of the runtime for the same masks."""

from __future__ import annotations

import re

import fakes
import numpy as np
import pytest
from page_modules import Node
from page_text import PageText

from mimo_export.web.facts_numeric import numeric_facts
from mimo_runtime.clinical.coco import encode_mask
from mimo_runtime.imageio.image import ScanImage
from mimo_runtime.model.config import MimoConfig
from mimo_runtime.postprocessing.mask_prediction import MaskPrediction
from mimo_runtime.preprocessing.letterbox import Letterbox
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results import assembly
from mimo_runtime.results.assembly import assemble_answer
from mimo_runtime.results.findings import presume_named
from mimo_runtime.results.plan import plan_request
from mimo_runtime.text.markup import strip_query_ids
from mimo_runtime.text.observe import is_next_to, observe_phrase

CONFIG = MimoConfig.from_preset(
    "micro",
    entities=("liver", "spleen", "left kidney", "right kidney", "polyp", "cell nucleus", "retinal vessel", "spine"),
    modalities=("ct", "endoscopy"),
    entity_modalities=(("ct",),) * 4 + (("endoscopy",), ("microscopy",), ("fundus",), ()),
    presence_threshold=0.45,
    entity_threshold=0.6,
    abstain_threshold=0.4,
)
QUESTIONS = (
    "liver", "polyp", "Where is the spleen?", "How many cell nuclei are there?", "How large is the liver?", "how large is it",
    "kidneys", "liver and spleen and fracture", "area of the kidneys", "What do you see?", "", "What is this?", "fracture",
    "Where is the spleen relative to the liver?", "Where are the kidneys relative to the liver?", "What is next to the liver?",
    "What is below the spleen?", "What is next to it?", "Where is it relative to the liver?", "Is it malignant?",
    "Where is the liver relative to the box?", "What lies right of the kidneys?", "Wo ist die Leber?", "retinal vessels",
    "How many millimetres is the polyp?", "Where is the heart relative to the spine?", "which organs can you identify?",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(node: Node) -> PageText:
    return PageText(node, CONFIG, fakes.tokenizer())


def some_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A few discs, bars, rings, grids of touching discs, or specks; never empty."""
    rows, columns = np.mgrid[:height, :width]
    mask, kind = np.zeros((height, width), bool), int(rng.integers(6))
    for _ in range(int(rng.integers(1, 4)) if kind < 4 else int(rng.integers(5, 14))):
        y, x = rng.integers(height), rng.integers(width)
        tall, wide = (
            rng.integers(1, max(2, height // (2 if kind < 4 else 7))),
            rng.integers(1, max(2, width // (2 if kind < 4 else 7))),
        )
        if kind == 0:
            mask[y : y + tall, x : x + wide] = True
        else:
            distance = ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2
            mask |= (distance <= 1) & ((distance > 0.5) if kind == 1 else True)
    if kind == 5:
        mask |= rng.random(mask.shape) > 0.97
    mask[height // 2, width // 2] |= not mask.any()
    return mask


def some_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    sizes = [(24, 40), (40, 24), (64, 64), (7, 90), (90, 130)] * 40 + [(300, 280)] * 8
    shapes = [np.ones((h, w), bool) for h, w in ((1, 1), (3, 4), (4, 2), (1, 9), (16, 16))]
    padded = [np.pad(shape, ((5, 20 - len(shape)), (3, 40 - shape.shape[1]))) for shape in shapes]
    lattice = np.zeros((120, 120), bool)
    for row, column in np.ndindex(2, 4):
        y, x = np.mgrid[:120, :120]
        lattice |= (y - 30 - 60 * row) ** 2 + (x - 15 - 24 * column - (10 if row else 0)) ** 2 <= (13 if column % 2 else 9) ** 2
    return [*padded, lattice, *(some_mask(rng, *size) for size in sizes)]


def test_masks_are_put_into_the_words_of_the_runtime(page: PageText):
    masks = some_masks()
    code = """
    const [{ observePhrase }, { decodeMask }] = await Promise.all(['observe', '../masks'].map(load));
    return v.masks.map((mask) => observePhrase(decodeMask(mask), mask.size[1], mask.size[0]));
    """
    shown = page.run(code, masks=[encode_mask(mask) for mask in masks])
    counts = set()
    for mask, words in zip(masks, shown, strict=True):
        phrase = observe_phrase(mask, "polyp")
        assert words == {name: getattr(phrase, name) for name in ("count", "size", "shape", "location")}
        counts.add(phrase.count)
    assert len(counts) == 7  # every counting word


def test_what_lies_next_to_a_mask_is_that_of_the_runtime(page: PageText):
    rng = np.random.default_rng(2)
    pairs = [(some_mask(rng, 60, 80), some_mask(rng, 60, 80)) for _ in range(60)]
    code = """
    const [{ isNextTo }, { decodeMask }] = await Promise.all(['observe', '../masks'].map(load));
    return v.pairs.map(([a, b]) => isNextTo(decodeMask(a), decodeMask(b), 80, 60));
    """
    shown = page.run(code, pairs=[[encode_mask(mask) for mask in pair] for pair in pairs])
    assert shown == [is_next_to(*pair) for pair in pairs] and len(set(shown)) == 2


def some_prediction(
    rng: np.random.Generator, height: int, width: int, pointed: bool
) -> tuple[dict[str, np.ndarray], MaskPrediction]:
    """A few blobs for each query, some present and some in doubt."""
    side, queries = CONFIG.mask_size, len(CONFIG.entities) + 1
    rows, columns = np.mgrid[:side, :side] / side
    logits = np.full((1, queries, side, side), -3.0)
    for query in range(queries):
        for _ in range(int(rng.integers(1, 4)) if query != 6 else 9):
            y, x, size = rng.random(), rng.random(), rng.random() / (4 if query != 6 else 14) + 0.02
            logits[0, query] += 9 * np.exp(-(((rows - y) ** 2 + (columns - x) ** 2) / size**2))
        logits[0, query] -= 4 * (rng.random() < 0.1)
    outputs = {
        "masks": logits.astype(np.float32),
        "presence": rng.normal(1, 1.6, (1, queries)).astype(np.float32),
        "iou": rng.uniform(0.3, 1.1, (1, queries)).astype(np.float32),
    }
    return outputs, MaskPrediction(outputs, Letterbox(height, width, CONFIG.image_size), CONFIG, points_at_target=pointed)


def some_cases() -> list[tuple[Prompt, MaskPrediction, str, ScanImage]]:
    rng, cases = np.random.default_rng(3), []
    for number, text in enumerate(QUESTIONS * 5):
        height, width = ((60, 100), (150, 70), (64, 64))[number % 3]
        pointed = number % 5 < 2
        prompt = Prompt(text, [(2, 2, 30, 30)] if pointed else (), [(4, 4, 0)] if number % 7 == 0 and text else ())
        modality = ("", "", "ct", "endoscopy", "oct")[number // 3 % 5]
        spacing = (None, (0.7, 0.9), (11.0, 23.5))[number % 3]
        source = "detector plane" if number % 4 == 0 and spacing else None
        pixels = np.zeros((height, width, 3), np.uint8)
        image = ScanImage(pixels, spacing, modality or None, spacing_source=source)
        cases.append((prompt, some_prediction(rng, height, width, prompt.has_references)[1], modality, image))
    return cases


ANSWERS = """
const names = ['plan', 'choose', 'assemble', '../masks', '../results'];
const [plans, choose, { answerText }, { decodeMask }, { phrasesOf }] = await Promise.all(names.map(load));
return v.cases.map(({ prompt, prediction: known, findings, image }) => {
  const plan = plans.planRequest(prompt, image.modality);
  if (!plans.hasAnswer(plan)) return { chosen: [], text: answerText(plan, null, [], image), lit: [] };
  const masks = known.masks.map((mask) => mask && decodeMask(mask));
  const prediction = {
    ...known, mask: (query) => masks[query], centre: (query) => known.centres[query], entities: () => new Map(known.entities),
  };
  const text = answerText(plan, prediction, findings, image);
  const lit = phrasesOf(text, findings).flatMap(([words, own]) => own.map((index) => [words, findings[index].query]));
  return { chosen: choose.chooseQueries(plan, prediction), text, lit };
});
"""


def test_answers_have_the_findings_the_sentence_and_the_phrases_of_the_runtime(page: PageText, monkeypatch):
    monkeypatch.setattr(assembly, "strip_query_ids", str)  # which query each phrase names
    values, expected = [], []
    for prompt, seen, modality, image in some_cases():
        plan = plan_request(prompt, CONFIG, page.vocabulary, modality or None)
        prediction = presume_named(plan, seen).without(plan.excluded)
        computed = seen if plan.has_answer else None
        answer = assemble_answer(plan, computed, None, image=image, modality=modality or None)
        # The page has no draft: it lists every structure that is visible.
        draft = " ".join(f"<p>{f.phrase}</p><seg{f.query}>" for f in answer.findings) if plan.intent.kind == "open" else ""
        written = assemble_answer(plan, computed, draft if computed else None, image=image, modality=modality or None)
        values.append(
            {
                "prompt": {"text": prompt.text, "boxes": prompt.boxes, "points": prompt.points, "mask": None},
                "prediction": {
                    "width": seen.width, "height": seen.height, "presence": prediction.presence,
                    "masks": [None if (m := prediction.mask(q)) is None else encode_mask(m) for q in range(len(seen.presence))],
                    "centres": [prediction.centre(q) for q in range(len(seen.presence))],
                    "entities": list(prediction.entities().items()),
                },
                "findings": [finding.to_dict() for finding in answer.findings],
                "image": {"modality": modality, "spacing_mm": image.spacing_mm, "spacing_source": image.spacing_source},
            }
        )  # fmt: skip
        lit = [[phrase, int(query)] for phrase, query in re.findall(r"<p>(.*?)</p><seg(\d+)>", written.text)]
        chosen = [[f.phrase, f.query] for f in answer.findings]
        expected.append({"chosen": chosen, "text": strip_query_ids(written.text), "lit": lit})
    for case, shown, wanted in zip(values, page.run(ANSWERS, cases=values), expected, strict=True):
        assert shown == wanted, case["prompt"]


WHOLE = """
const names = ['plan', 'choose', 'assemble', '../numeric/prediction', '../numeric/findings', '../letterbox'];
const [plans, choose, { answerText }, { Prediction }, { findingOf }, { Letterbox }] = await Promise.all(names.map(load));
return v.cases.map(({ prompt, modality, sizes: [height, width], outputs }) => {
  const plan = plans.planRequest(prompt, modality);
  for (const tensor of Object.values(outputs)) tensor.data = Float32Array.from(tensor.data);
  const letterbox = new Letterbox(height, width, v.settings.image_size);
  const seen = new Prediction(outputs, letterbox, v.settings, prompt.boxes.length > 0);
  const prediction = plans.hasAnswer(plan) ? choose.presumeNamed(plan, seen).without(plan.excluded) : null;
  const chosen = prediction ? choose.chooseQueries(plan, prediction) : [];
  const findings = chosen.map(([phrase, query]) => findingOf(prediction, phrase, query, plan.prompt, { withDiameter: true }));
  return [chosen, answerText(plan, prediction, findings, { modality })];
});
"""


def test_outputs_of_the_graphs_become_the_sentence_of_the_runtime(page: PageText):
    rng, values, expected = np.random.default_rng(4), [], []
    for number, text in enumerate(QUESTIONS * 2):
        prompt = Prompt(text, [(2, 2, 30, 30)] if number % 4 == 0 or not text else ())
        outputs, seen = some_prediction(rng, 60 + number % 9, 100 - number % 7, prompt.has_references)
        plan = plan_request(prompt, CONFIG, page.vocabulary)
        computed = seen if plan.has_answer else None
        answer = assemble_answer(plan, computed, None)
        draft = " ".join(f"<p>{f.phrase}</p><seg{f.query}>" for f in answer.findings) if plan.intent.kind == "open" else ""
        written = assemble_answer(plan, computed, draft if computed else None)
        expected.append([[[f.phrase, f.query] for f in answer.findings], written.text])
        tensors = {name: {"data": array, "dims": array.shape} for name, array in outputs.items()}
        values.append(
            {
                "prompt": {"text": text, "boxes": prompt.boxes, "points": [], "mask": None}, "modality": "",
                "sizes": [seen.height, seen.width], "outputs": tensors,
            }
        )  # fmt: skip
    shown = page.run(WHOLE, cases=values, settings=numeric_facts(CONFIG, None))
    for case, one, wanted in zip(values, shown, expected, strict=True):
        assert one == wanted, case["prompt"]
