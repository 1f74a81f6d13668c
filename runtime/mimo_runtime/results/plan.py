"""What is computed for a request: what the graphs read, which queries become findings, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from ..domain.check import IN, OUT, DomainCheck
from ..errors import PromptError
from ..model.config import MimoConfig
from ..preprocessing.prompts import NEGATIVE, Prompt
from ..text.frames import NEXT_TO
from ..text.intents import Intent, Subject, parse_request, without_unknown
from ..text.names import fold
from ..text.questions import EVERYTHING, QUESTIONS, question, templates
from ..text.vocabulary import Vocabulary
from .answer import Refusal
from .domain_rules import domain_warnings, excluded_entities
from .refusals import REFERENCE, entities_in_order, refusal_of, unknown_sentence

#: The phrase of query 0 when a request points at a target and names nothing that the model knows.
REFERRED = "referred region"
#: Frames of questions that a mask of the region does not answer: "Is there a fracture?"
YES_OR_NO = ("presence", "count", "what")
#: Kinds whose findings no request names: what images of the nearest modality never show is none, where none is stated.
UNNAMED = ("open", "neighbours")


@dataclass(frozen=True)
class Plan:
    """What answers a request.

    Args:
        intent: without what the model does not know, where it knows another structure.
        prompt: what the graphs read: the names of the model in a question that training asks with.
        question: the text of the request.
        named: phrases and queries of the findings that the request decides. Of a relation, the last are the other structures.
        names: names of a request for several structures with their queries: each is answered as by itself.
        named_by_draft: whether the text decoder may name the target: the request points at it and does not name it.
        refusal: why the question is not answered.
        warnings: of the answer.
        note: sentence about what the model does not know, behind the answer.
        excluded: mask queries of structures that images of the stated modality never show: they are absent.
    """

    intent: Intent
    prompt: Prompt
    question: str
    named: tuple[tuple[str, int], ...] = ()
    names: tuple[tuple[str, int], ...] = ()
    named_by_draft: bool = False
    refusal: Refusal | None = None
    warnings: tuple[str, ...] = ()
    note: str = ""
    excluded: tuple[int, ...] = ()

    @property
    def has_answer(self) -> bool:
        """Whether the graphs run: a refused request has only what a reference points at."""
        return self.refusal is None or bool(self.named)

    def check_single_name(self) -> None:
        """Raises PromptError where the request names several structures or none, for what needs the mask of query 0 alone."""
        if self.refusal is None and [query for _, query in self.named] != [0]:
            raise PromptError("tiles need the name of one structure", 'Name it, e.g. "cell nucleus", or leave the tiles out')


def plan_request(
    prompt: Prompt,
    config: MimoConfig,
    vocabulary: Vocabulary,
    modality: str | None = None,
    fits: Callable[[str], bool] = lambda text: True,
    domain: DomainCheck | None = None,
    any_domain: bool = False,
) -> Plan:
    """Read a request.

    Args:
        vocabulary: of the model's entities.
        modality: of the image, where it is known.
        fits: whether a text is short enough for the model.
        domain: of the image; None if the model has no statistics.
        any_domain: whether an image out of the domain is answered as any other.
    """
    intent = parse_request(prompt.text, vocabulary)
    if not config.entities:
        intent = _with_any_name(intent)
    pointed_at = bool(prompt.boxes) or prompt.mask is not None or any(label != NEGATIVE for *_, label in prompt.points)
    if pointed_at and intent.kind == "name" and intent.frame == "what" and intent.entities and not intent.unknown:
        intent = Intent("describe", frame="what")  # "Is this the liver?": the model names what it sees there
    if intent.kind in ("open", "describe"):
        intent = replace(intent, kind="describe" if pointed_at else "open")
    nearest = None if domain is None or domain.verdict == OUT else domain.modality
    refusal, warnings = _refused(prompt.text, intent, vocabulary, entities_in_order(config, modality or nearest), pointed_at)
    unknown = intent.unknown
    if refusal is None and domain is not None and domain.verdict == OUT and not any_domain:
        refusal, warnings = Refusal("out of domain", "", () if pointed_at else (REFERENCE,)), ()
    if refusal is None and unknown:
        intent = without_unknown(intent)
    named = tuple(_named(intent, refusal, config, pointed_at))
    excluded = excluded_entities(config, modality)
    is_in = domain is not None and domain.verdict == IN
    unnamed = excluded_entities(config, modality or nearest) if is_in and intent.kind in UNNAMED else frozenset[str]()
    own = {query for _, query in named}
    queries = [i for i, entity in enumerate(config.entities, 1) if entity in excluded or (entity in unnamed and i not in own)]
    impossible = excluded_entities(config, modality or nearest) if pointed_at and is_in else excluded
    if len(named) == 1 and named[0][1] == 0 and named[0][0] in impossible:
        named, queries = (((REFERRED, 0),), queries) if pointed_at else (named, [0, *queries])
    texts = (text for text in _texts(prompt.text, intent, refusal, pointed_at) if fits(text) or not text)
    text = next(texts, "" if pointed_at else prompt.text)
    return Plan(
        intent,
        replace(prompt, text=text),
        prompt.text,
        named,
        () if intent.is_relative else tuple((name, query) for name, query in named if query and fits(name)),
        pointed_at and refusal is None and not unknown and intent.kind in ("describe", "how_large") and not intent.named,
        refusal,
        domain_warnings(domain, modality) + warnings,
        " ".join(unknown_sentence(s.text) for s in unknown) if refusal is None and intent.subjects else "",
        tuple(queries),
    )


def _with_any_name(intent: Intent) -> Intent:
    """An intent for a model without entities: query 0 may draw anything, and nothing says what it does not know."""
    if intent.is_relative or not intent.subjects:
        return intent
    name = " and ".join(subject.text for subject in intent.subjects)
    return replace(intent, subjects=(Subject(name, name),))


def _refused(
    text: str, intent: Intent, vocabulary: Vocabulary, entities: tuple[str, ...], pointed_at: bool
) -> tuple[Refusal | None, tuple[str, ...]]:
    """The refusal of a request, or warnings about the part that is not answered."""
    unknown = intent.unknown
    needs_all = intent.is_relative or not intent.entities
    if intent.kind == "unsupported" or (intent.needs_reference and not pointed_at):
        return refusal_of(text, intent, vocabulary, entities), ()
    if not unknown:
        return None, ()
    only_points = pointed_at and not intent.is_relative and intent.frame not in YES_OR_NO
    if needs_all and not only_points:
        return refusal_of(text, intent, vocabulary, entities), ()
    return None, tuple(unknown_sentence(subject.text) for subject in unknown)


def _named(intent: Intent, refusal: Refusal | None, config: MimoConfig, pointed_at: bool) -> Iterator[tuple[str, int]]:
    query = {entity: 1 + i for i, entity in reversed(list(enumerate(config.entities)))}
    entities = () if refusal else intent.entities
    others = () if refusal else tuple(other.entity for other in intent.others if other.entity is not None)
    if len(entities) == 1 and not intent.is_relative:
        yield entities[0], 0
        return
    if pointed_at:
        yield REFERRED, 0
    for entity in (*entities, *others):
        yield entity, query[entity]


def _has_template(intent: Intent) -> bool:
    """Whether training asks such a question: about one structure, relative to one other one in a direction."""
    if intent.is_relative:
        subjects = len(intent.entities) if intent.kind == "relation" else 1
        return subjects == len(intent.others) == 1 and intent.relation != NEXT_TO
    return intent.kind not in ("open", "describe") and len(intent.entities) == 1


def _texts(text: str, intent: Intent, refusal: Refusal | None, pointed_at: bool) -> Iterator[str]:
    """What the graphs may read, the best first."""
    if refusal or not _has_template(intent):
        unnamed = QUESTIONS["what"] if pointed_at else QUESTIONS["describe"]
        asked = None if refusal or intent.subjects else _template_of(text, unnamed)
        yield asked or ("" if pointed_at else EVERYTHING)
        return
    name = intent.entities[0] if intent.entities else ""
    other = next((other.entity or "" for other in intent.others), "")
    if asked := _template_of(text, templates(name, other, intent.relation)):
        yield asked
    if intent.is_relative:
        yield question(intent.kind, name or None, other=other, relation=intent.relation)
        yield EVERYTHING
        return
    if intent.kind == "where" or intent.kind == "how_many":
        yield question({"where": "where", "how_many": "count"}[intent.kind], name)
    yield name


def _template_of(text: str, of_training: Iterable[str]) -> str | None:
    """The question of training that a text is; case, quotes and punctuation, which change what graphs answer, are as there."""
    known = list(of_training)
    return text if text in known else next((one for one in known if fold(one) == fold(text)), None)
