"""The structures that a question and its answer name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mimo_runtime.text.grammar import MODALITIES, clean_name, parse, pluralise
from mimo_runtime.text.questions import QUESTIONS, subject_of

from .common import class_name

Pair = tuple[str, str]

#: First words of a request, which a bare name does not have: those of the grammar, and other common ones.
_ASKING = {t.split()[0].lower() for templates in QUESTIONS.values() for t in templates if not t.startswith("{")} | {
    "are", "can", "could", "detect", "does", "draw", "explain", "give", "has", "have", "i", "identify", "if", "in", "list",
    "please", "provide", "tell", "the", "there", "was", "were", "when", "who", "why", "will", "would", "you",
}  # fmt: skip
#: Words that no name of a structure contains: a text with one matches a template of the grammar by chance.
_NO_NAME = {
    "abnormal", "abnormality", "all", "any", "anything", "are", "can", "every", "everything", "for", "here", "image", "is",
    "it", "its", "me", "picture", "please", "region", "scan", "something", "that", "them", "these", "this", "those", "visible",
    "what", "where", "which", "you", "your",
}  # fmt: skip
_MOST_WORDS = 5
#: Not part of the name: "Segment the polyp in this image."
_IN_THE_IMAGE = re.compile(
    r",? (?:please|(?:in|on|within|from) (?:the|this|that) (?:given )?(?:image|picture|photo|scan|slice|frame|video|x-?ray))"
    r"(?=[.?!]*$)",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"(?:^|[:.]\s*|\bthere (?:is|are) )no\b|\b(?:not|nothing) (?:is )?(?:visible|seen|present|detected|found)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class TextTargets:
    """The content of a record.

    Args:
        names: one for each mask, in the order of the answer; may be empty if ``absent``.
        absent: the answer denies every structure.
        modality, region: as data sets write them, empty if unknown.
    """

    names: tuple[str, ...]
    absent: bool
    modality: str = ""
    region: str = ""


def parse_text_targets(
    pairs: Sequence[Pair], label: str | Sequence[str] | None = None, known: Iterable[str] = ()
) -> TextTargets:
    """Read the names from a label, else from tagged phrases of the answers, else from known names in answers, then questions,
    else from questions that match a template of the grammar, or that are a bare name.

    Args:
        pairs: questions and answers.
        label: explicit name, or names.
        known: class names to search for in free text.

    Raises:
        ValueError: there is no name.
    """
    read = [parse(answer) for _, answer in pairs]
    heads = [d for d in read if d.modality in MODALITIES]  # other words before a colon are no modality
    modality, region = (heads[0].modality, heads[0].region) if heads else ("", "")
    # A relation's other structure has a mask of its own, so it is a name as well.
    tagged = [p.name for d in read for p in (*d.phrases, *((d.other,) if d.other else ()))]
    absent = not tagged and any(d.absent or _NOTHING.search(answer) for d, (_, answer) in zip(read, pairs))
    known = list(known)
    if label is not None:
        names = [label] if isinstance(label, str) else list(label)
    else:
        names = (
            tagged
            or [d.absent for d in read if d.absent]
            or _mentioned((answer for _, answer in pairs), known)
            or _mentioned((question for question, _ in pairs), known)
            or [name for question, _ in pairs for name in _subjects(question)]
        )
    unique: dict[str, str] = {}
    for name in filter(None, map(class_name, names)):
        unique.setdefault(name.lower(), name)
    if not unique and not absent:
        raise ValueError("neither question nor answer names a structure")
    return TextTargets(tuple(unique.values()), absent, modality, region)


def _mentioned(texts: Iterable[str], known: Sequence[str]) -> list[str]:
    """Known names in texts as whole words, singular or plural; of names within names the longest."""
    spellings = {text.lower(): name for name in known for text in (name, pluralise(name)) if text}
    if not spellings:
        return []
    listed = "|".join(re.escape(text) for text in sorted(spellings, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)
    return [spellings[match.lower()] for text in texts for match in pattern.findall(text)]


def _subjects(question: str) -> list[str]:
    """The subject of a question of the grammar, or a bare name; empty where that would be a guess."""
    text = " ".join(question.split())
    while (shorter := _IN_THE_IMAGE.sub("", text)) != text:
        text = shorter
    subject = subject_of(text)
    if subject is None:
        return []
    words = [word.strip(",;:'\"").lower() for word in subject.split()]
    if len(words) > _MOST_WORDS or not _NO_NAME.isdisjoint(words):
        return []
    bare = subject == clean_name(text)  # no template matches
    return [] if bare and (text[-1] in ".?!:" or words[0] in _ASKING) else [subject]
