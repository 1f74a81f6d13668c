"""Why a question is not answered, as data and as a sentence. Every sentence begins with "This model" (``grammar.parse``)."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.config import MimoConfig
from ..text.frames import HIDDEN
from ..text.grammar import clean_name, listed
from ..text.intents import Intent, Subject
from ..text.names import is_plural_name
from ..text.questions import EVERYTHING, QUESTIONS, question
from ..text.vocabulary import Vocabulary
from .answer import Refusal

#: What points at a structure.
REFERENCE = "a box, a point or a mask"
#: Most names, and most letters of the request, that a sentence repeats.
MOST_NAMES, MOST_LETTERS = 8, 60


def refusal_of(text: str, intent: Intent, vocabulary: Vocabulary, entities: Sequence[str]) -> Refusal:
    """The refusal of a request that has no answer.

    Args:
        text: of the request.
        intent: of kind "unsupported", or about something that the model does not know, or about nothing.
        entities: of the model, those that fit the image first.
    """
    if intent.kind == "unsupported":
        subject = intent.subjects[0].text if intent.subjects else shortened(text) if intent.reason != "empty subject" else ""
        return Refusal(intent.reason, subject, _questions(intent, entities))
    if intent.unknown:
        subject = intent.unknown[0].text
        return Refusal("unknown subject", shortened(subject), vocabulary.candidates(subject) or tuple(entities))
    return Refusal("empty subject", "", (REFERENCE, *_questions(intent, entities)))


def refusal_sentence(refusal: Refusal, text: str = "") -> str:
    """The sentence of a refusal.

    Args:
        text: of the request.
    """
    if refusal.reason == "unknown subject":
        return f"{unknown_sentence(refusal.subject)} It knows: {some_names(refusal.works)}."
    if refusal.reason == "out of domain":
        remedy = f" Point at the structure with {refusal.works[0]}." if refusal.works else ""
        return f"This model was not trained on images like this one.{remedy}"
    questions = [works for works in refusal.works[:3] if works != REFERENCE]
    examples = listed([f"'{works}'" if works[:1].isupper() else works for works in questions] or ["a name"], "or")
    is_reference = REFERENCE in refusal.works
    if refusal.reason == "other language":
        return f"This model answers questions in English only. Ask {examples}."
    if refusal.reason == "empty subject":
        needed, remedy = (", or a reference,", f"Give {REFERENCE}, or ask") if is_reference else ("", "Ask")
        return f"This model needs the name of a structure{needed} for '{shortened(text)}'. {remedy} {examples}."
    verb = "understand" if refusal.reason == "not understood" else "answer"
    return f"This model does not {verb} '{shortened(text)}'. Ask {examples}."


def unknown_sentence(name: str) -> str:
    """What an answer says of a name that the model does not know."""
    return f"This model does not know '{shortened(name)}'."


def some_names(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = list(names[:MOST_NAMES])
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "") or "no structure"


def shortened(text: str) -> str:
    """A user's words as a sentence repeats them: on one line, without markup, and without what steers other text."""
    text = " ".join(text.translate(HIDDEN).replace("<", "(").replace(">", ")").replace("'", "’").split())
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1].rstrip() + "…"


def entities_in_order(config: MimoConfig, modality: str | None) -> tuple[str, ...]:
    """The entities of a model, those that its training data marks in a modality first."""
    modalities = config.entity_modalities
    if not modality or not modalities:
        return config.entities
    fits = {entity: modality in marked for entity, marked in zip(config.entities, modalities)}
    return tuple(sorted(config.entities, key=lambda entity: not fits[entity]))


def _questions(intent: Intent, entities: Sequence[str]) -> tuple[str, ...]:
    """Questions that the model answers, about the structure of the request if it is known."""
    subject = next((s for s in intent.subjects if s.entity), Subject("", next(iter(entities), None)))
    if subject.entity is None:
        return (EVERYTHING,)
    if intent.reason == "other language":
        return (_in_english(intent.frame, subject.entity),)
    return _in_english("where", subject.entity), _how_large(subject.entity), EVERYTHING


def _in_english(frame: str, entity: str) -> str:
    if frame == "size":
        return _how_large(entity)
    fits = frame in QUESTIONS and frame not in ("relation", "neighbours", "what", "describe")
    return _of_number(question(frame if fits else "where", entity), entity)


def _how_large(entity: str) -> str:
    return _of_number(f"How large is the {clean_name(entity)}?", entity)


def _of_number(text: str, entity: str) -> str:
    """A question about a name in the singular, with the verb that a plural takes."""
    if not is_plural_name(clean_name(entity)):
        return text
    return text.replace(" is the ", " are the ").replace("Is there a ", "Are there ").replace("Is there an ", "Are there ")
