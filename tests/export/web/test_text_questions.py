"""Questions that the page without a service reads: the same intent, plan, refusal and token ids as in the runtime."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict

import fakes
import numpy as np
import pytest
import tokenizers as hf
from page_modules import Node
from page_text import PageText
from request_cases import ANSWERABLE, ENTITIES, UNANSWERABLE, rows

from mimo_runtime.domain.check import DomainCheck
from mimo_runtime.errors import PromptError
from mimo_runtime.model.config import MaskDecoderConfig, MimoConfig
from mimo_runtime.model.tokenizer import Tokenizer, special_tokens
from mimo_runtime.preprocessing.prompts import Prompt
from mimo_runtime.results.plan import plan_request
from mimo_runtime.results.refusals import refusal_sentence
from mimo_runtime.text.grammar import RELATIONS, pluralise
from mimo_runtime.text.intents import parse_request
from mimo_runtime.text.questions import QUESTIONS, subject_of, target_of
from mimo_runtime.text.synonyms import ABBREVIATIONS, ACCEPTED, SYNONYMS, misspell
from mimo_runtime.text.translations import TRANSLATIONS

CASES = [row[0] for row in (*rows(ANSWERABLE), *rows(UNANSWERABLE))]
#: What a name is put into: English, Spanish, German, French, Chinese, a bare name, and what no model answers.
FRAMES = (
    "{}", "Where is the {}?", "how many {} are there", "how big is the {} in mm", "please show me the {} in this image",
    "is there any sign of a {}?", "¿Dónde está {}?", "Wo ist die {}?", "Montrez-moi {}", "{}在哪里？", "What is below the {}?",
    "Where is the {} relative to the liver?", "What's next to the {}", "is the {} malignant", "liver and {}", "the {} and it",
    "«{}»", "Could you tell me where {} is?", "large {}", "{} ({})",
)  # fmt: skip
WORDS = (  # noqa: SIM905 - white space of other kinds stays
    "where is the liver ? how many polyps left of and , 肝 ¿ große 😀 not <seg0> <p> ' relative to what a this 12 é ... / İ ı ſ"
    " K ǰ Ꭰ ﬀ ß Σς ½ ² Ⅳ \u0301 \u200b \u2028 \x1c a\u0308 पेट 위 ｌｉｖｅｒ œil size kidney kidneys right (lv) below him's"
    " what's is segment malignant in this picture please can you see outline spleen; ivc+gb oesophagus tumour wo ist die Leber"
).split(" ")


def some_texts() -> Iterator[str]:
    yield from CASES
    yield from ("", " ", "a," * 150, "liver and " * 40, "is there " * 45, "what is the size of " * 20, "the x" * 70)
    numbers = itertools.count()
    for kind, templates in QUESTIONS.items():
        for number, name in enumerate(ENTITIES):
            other, relation = ENTITIES[(number + 1) % len(ENTITIES)], RELATIONS[number % 4]
            article = ("an " if name[0] in "aeiou" else "a ") + name
            for template in templates:
                text = template.format(name=name, a=article, many=pluralise(name) or name, other=other, relation=relation)
                yield (text, text.upper(), text.rstrip(".?"))[next(numbers) % 3] if kind != "name" else text
    for name in ENTITIES:
        spellings = (*SYNONYMS.get(name, ()), *ACCEPTED.get(name, ()), *ABBREVIATIONS.get(name, ()))
        for spelling in (*spellings, *itertools.chain(*TRANSLATIONS.get(name, {}).values())):
            yield FRAMES[next(numbers) % len(FRAMES)].replace("{}", spelling)
    rng, dice = np.random.default_rng(0), random.Random(0)
    for number in range(300):
        frame = FRAMES[number % len(FRAMES)]
        yield misspell(frame.replace("{}", ENTITIES[number % len(ENTITIES)]), rng, 1 + number % 2)
    for _ in range(400):
        yield " ".join(dice.choices(WORDS, k=dice.randint(1, 9)))


TEXTS = list(dict.fromkeys(some_texts()))


@pytest.fixture(scope="module")
def page(node: Node) -> PageText:
    config = MimoConfig.from_preset(
        "micro",
        entities=ENTITIES,
        mask_decoder=MaskDecoderConfig(heads=2, queries=len(ENTITIES) + 1),
        modalities=("ct", "ultrasound"),
        entity_modalities=tuple(("ct",) if number % 3 else ("ultrasound", "mri") for number in range(len(ENTITIES))),
    )
    return PageText(node, config, fakes.tokenizer())


def test_every_text_has_the_intent_of_the_runtime(page: PageText):
    intents = page.run("const { parseRequest } = await load('intents'); return v.texts.map(parseRequest);", texts=TEXTS)
    for text, intent in zip(TEXTS, intents, strict=True):
        read = asdict(parse_request(text, page.vocabulary))
        assert intent == {**read, "subjects": list(read["subjects"]), "others": list(read["others"])}, text


PLANS = """
const [{ planRequest }, { encodeQuery }, { refusalSentence }] = await Promise.all(['plan', 'tokens', 'refusals'].map(load));
return v.requests.map(([text, isPointed, modality, domain, anyDomain]) => {
  const prompt = { text, boxes: isPointed ? [[0, 0, 8, 8]] : [], points: [[1, 1, 0]], mask: null };
  const { intent, question, prompt: { text: read }, ...plan } = planRequest(prompt, modality, domain, anyDomain);
  const sentence = plan.refusal && refusalSentence(plan.refusal, question);
  return { ...plan, text: read, kind: intent.kind, tokens: encodeQuery(read), sentence };
});
"""


def expected_plan(page: PageText, text: str, pointed: bool, modality: str, domain: DomainCheck | None, any_domain: bool):
    """As ``PLANS`` gives it."""

    def tokens(text: str) -> list[int] | None:
        try:
            return page.tokenizer.encode_query(text, page.config.text.max_length).tolist()
        except PromptError:
            return None

    prompt = Prompt(text, [(0, 0, 8, 8)] if pointed else (), [(1, 1, 0)])
    fits = lambda text: tokens(text) is not None  # noqa: E731
    plan = plan_request(prompt, page.config, page.vocabulary, modality or None, fits, domain, any_domain)
    refusal = plan.refusal
    return {
        "text": plan.prompt.text, "named": [list(pair) for pair in plan.named],
        "names": [list(pair) for pair in plan.names], "warnings": list(plan.warnings),
        "refusal": refusal and refusal.to_dict(), "note": plan.note, "excluded": list(plan.excluded), "kind": plan.intent.kind,
        "tokens": tokens(plan.prompt.text), "sentence": refusal and refusal_sentence(refusal, text),
    }  # fmt: skip


def test_every_text_is_planned_and_refused_as_in_the_runtime(page: PageText):
    modalities, verdicts = ("", "ct", "ultrasound", "pet"), (*[None] * 6, "in", "borderline", "out")
    requests = []
    for number, text in enumerate((*CASES, *TEXTS[::-4])):
        modality, verdict = modalities[number // 2 % 4], verdicts[number % len(verdicts)]
        domain = verdict and DomainCheck(verdict, 1.2345, "mri", verdict == "out" and modality != "")
        requests.append((text, bool(number % 2), modality, domain, number % 5 == 0))
    values = [(*rest, domain and asdict(domain), any_domain) for *rest, domain, any_domain in requests]
    for request, plan in zip(requests, page.run(PLANS, requests=values), strict=True):
        assert plan == expected_plan(page, *request), request


@pytest.mark.parametrize(
    "entities", [(), ("Optic Disc", "left widget", "right widget", "肿瘤", "gas in gut", "lungs", "lung's")]
)
def test_a_model_with_other_names_or_none_is_read_alike(node: Node, entities: tuple[str, ...]):
    page = PageText(node, MimoConfig.from_preset("micro", entities=entities), fakes.tokenizer())
    texts = [
        *entities,
        *(f"Where is the {name}?" for name in entities),
        *CASES,
        "lung",
        "widgets",
        "x" * 90,
        "the unicorn " * 9,
    ]
    requests = [(text, bool(number % 3), "", None, False) for number, text in enumerate(texts)]
    for request, plan in zip(requests, page.run(PLANS, requests=requests), strict=True):
        assert plan == expected_plan(page, *request), request


def test_the_target_of_a_question_is_that_of_the_runtime(page: PageText):
    code = "const q = await load('questions'); return v.texts.map((text) => [q.targetOf(text), q.subjectOf(text)]);"
    assert page.run(code, texts=TEXTS) == [[target_of(text), subject_of(text)] for text in TEXTS]


def word_pieces() -> Tokenizer:
    """A tokenizer with the vocabulary of a BERT."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789肝"
    words = [
        "[UNK]",
        *letters,
        *(f"##{c}" for c in letters),
        *"?.,'-$()",
        "liver",
        "##er",
        "where",
        "is",
        "the",
        "kid",
        "##ney",
    ]
    vocabulary = {token: number for number, token in enumerate([*special_tokens(4), *words])}
    tokenizer = hf.Tokenizer(hf.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = hf.normalizers.BertNormalizer(), hf.pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(special_tokens(4))
    return Tokenizer(tokenizer)


@pytest.mark.parametrize("make", [fakes.tokenizer, word_pieces])
def test_texts_become_the_tokens_of_the_runtime(node: Node, make):
    page = PageText(node, MimoConfig.from_preset("micro"), make())
    texts = [*TEXTS[::3], "<seg3> <p>x</p>", "it's we'll 3rd  x", "a" * 101, "₤ $5^2 `~ ©"]
    shown = page.run("const { encodeQuery } = await load('tokens'); return v.texts.map(encodeQuery);", texts=texts)
    for text, ids in zip(texts, shown, strict=True):
        try:
            assert ids == page.tokenizer.encode_query(text, page.config.text.max_length).tolist(), text
        except PromptError:
            assert ids is None, text
