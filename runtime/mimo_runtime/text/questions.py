"""Questions: the templates that training asks with, and what a request asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from .grammar import (
    COUNTS,
    LOCATIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Description,
    Phrase,
    clean_name,
    describe,
    pluralise,
    singular,
)
from .synonyms import synonyms

#: Templates by kind. ``{a}`` is the name with its article, ``{many}`` its plural. Kinds without ``{`` name nothing.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "name": ("{name}", "the {name}"),
    "where": ("Where is the {name}?", "Locate the {name}.", "Find the {name}."),
    "segment": ("Segment the {name}.", "Outline the {name}.", "Mark the {name}."),
    "presence": ("Is there {a}?", "Is the {name} visible?", "Do you see {a}?", "Can you see the {name}?"),
    "show": ("Show me the {name}", "Show the {name}.", "Highlight the {name}."),
    "count": ("How many {many} are there?", "Count the {many}."),
    "relation": ("Where is the {name} relative to the {other}?", "How does the {name} lie relative to the {other}?"),
    "neighbours": ("What is {relation} the {other}?", "Which structures are {relation} the {other}?"),
    "what": ("What is this?", "What is shown here?", "Describe this region."),
    "describe": ("What do you see?", "Describe the image.", "Describe the finding.", "Which structures are visible?"),
}

#: The open question.
EVERYTHING = "What do you see?"
#: Kinds that ask about several structures at once, so for no single target.
SEVERAL = ("relation", "neighbours")


def question(
    kind: str, name: str | None = None, rng: np.random.Generator | None = None, other: str | None = None, relation: str = ""
) -> str:
    """A question of a kind (of :data:`QUESTIONS`) about ``name``; the first template without ``rng``.

    Kind "relation" also needs ``other``; kind "neighbours" needs ``other`` and one of :data:`RELATIONS`, and no name.
    """
    templates = QUESTIONS[kind]
    template = templates[0 if rng is None else int(rng.integers(len(templates)))]
    needed = {"a name": (name, "{name}", "{a}", "{many}"), "other": (other, "{other}"), "relation": (relation, "{relation}")}
    for what, (value, *slots) in needed.items():
        if not value and any(str(slot) in template for slot in slots):
            raise ValueError(f"a question of kind {kind} needs {what}")
    name, other = clean_name(name or ""), clean_name(other or "")
    article = ("an " if name[:1].lower() in "aeiou" else "a ") + name
    return template.format(name=name, a=article, many=pluralise(name) or name, other=other, relation=relation)


def _matcher(template: str) -> re.Pattern[str]:
    pattern = re.escape(template.rstrip(".?")).replace(r"\{a\}", "an? (.+?)")
    for slot in ("name", "many", "other"):
        pattern = pattern.replace(rf"\{{{slot}\}}", f"(?P<{slot}>.+?)")
    pattern = pattern.replace(r"\{relation\}", f"(?P<relation>{'|'.join(RELATIONS)})")
    return re.compile(pattern.replace("the\\ (", "(?:the )?(") + r"\s*[.?!]*", re.IGNORECASE)


COUNTING = [_matcher(t) for t in QUESTIONS["count"]]
NAMING = [_matcher(t) for kind, ts in QUESTIONS.items() for t in ts if kind not in ("name", "count", *SEVERAL) and "{" in t]
OPEN = [_matcher(t) for kind, ts in QUESTIONS.items() for t in ts if kind in SEVERAL or "{" not in t]


def subject_of(text: str) -> str | None:
    """What a question asks for: templates stripped, a bare name as it is but for "the".

    None for empty texts, open questions ("What do you see?") and those about several structures ("What is below the liver?").
    """
    text = " ".join(text.split())
    if not clean_name(text) or any(pattern.fullmatch(text) for pattern in OPEN):
        return None
    for pattern in NAMING:
        match = pattern.fullmatch(text)
        if match and clean_name(match.group(1)):
            return clean_name(match.group(1))
    for pattern in COUNTING:
        match = pattern.fullmatch(text)
        if match and clean_name(match.group(1)):
            name = clean_name(match.group(1))
            return singular(name.lower()).upper() if name.isupper() else singular(name)
    return re.sub(r"(?i)^the (?=.)", "", clean_name(text))


def target_of(text: str) -> str | None:
    """What a question of a template names, without an article; None where it names nothing (:func:`subject_of`)."""
    subject = subject_of(text)
    return None if subject is None else re.sub(r"^(?:the|an?)\s+", "", subject, flags=re.IGNORECASE)


def templates(name: str, other: str = "", relation: str = "") -> Iterator[str]:
    """Every question about a structure that training asks with; those about two if ``other`` is given."""
    filled = {
        "name": name, "a": ("an " if name[:1].lower() in "aeiou" else "a ") + name, "many": pluralise(name) or name,
        "other": other, "relation": relation,
    }  # fmt: skip
    for kind, of_kind in QUESTIONS.items():
        for template in of_kind:
            if "{" in template and bool(other) == (kind in SEVERAL):
                yield template.format(**filled)


def corpus(entities: Iterable[str], modalities: Iterable[str], regions: Iterable[str]) -> list[str]:
    """Sentences and questions that use every name and every word of the grammar, to train a tokenizer on."""
    entities, modalities, regions = list(entities), list(modalities) or [""], list(regions) or [""]
    texts = [describe(Description(m, r)) for m in modalities for r in regions]
    turn = 0
    for query, name in enumerate(entities):
        for count in COUNTS:
            for location in LOCATIONS:
                turn += 1
                phrase = Phrase(name, (0, query + 1)[turn % 2], count, SIZES[turn % 3], SHAPES[turn % 4], location)
                texts.append(describe(Description(modalities[turn % len(modalities)], regions[turn % len(regions)], (phrase,))))
        texts.append(describe(Description(modalities[query % len(modalities)], regions[query % len(regions)], absent=name)))
        following = entities[(query + 1) % len(entities)]
        for number, relation in enumerate(RELATIONS):
            below = () if number == 1 else (Phrase(name, 1 + query),)
            other = Phrase(following, 1 + (query + 1) % len(entities))
            where = modalities[query % len(modalities)], regions[query % len(regions)]
            texts.append(describe(Description(*where, below, relation=relation, other=other)))
        for templates in QUESTIONS.values():
            filled = {"name": name, "a": "a " + name, "many": pluralise(name) or name, "other": following}
            texts.extend(t.format(**filled, relation=RELATIONS[query % 4]) for t in templates)
        texts.extend(synonyms(name))
        group = [Phrase(entities[(query + i) % len(entities)], 1 + (query + i) % len(entities)) for i in range(4)]
        texts.append(describe(Description(modalities[query % len(modalities)], regions[query % len(regions)], tuple(group))))
    return texts
