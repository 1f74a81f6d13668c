"""The one grammar of text answers and questions, in both directions.

``parse(describe(x)) == x`` holds for every :class:`Description`; ``parse`` also accepts any other text and returns what it
recognises. Forms::

    Endoscopy of the colon: one large oval <p>polyp</p><seg0> in the upper left.
    Microscopy of cells: many small round <p>cell nuclei</p><seg0> in the center.
    CT of the abdomen: <p>liver</p><seg5>, <p>spleen</p><seg1> and <p>aorta</p><seg8>.
    Ultrasound of the breast: no breast lesion is visible.
    MRI of the brain: no finding.
    CT of the abdomen: <p>spleen</p><seg12> right of the <p>liver</p><seg7>.
    CT of the abdomen: nothing below the <p>liver</p><seg7>.

Locations and relations are those of the image as shown: "right of" is towards larger x.

A name is bounded by its tags (or by the fixed words around it), so names may hold digits, commas and "and".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..data.prompt_sampling import INSTANCE_MIN_PIXELS, INSTANCE_MIN_SHARE, mask_box
from ..postprocessing.connected_components import label_components
from .shape_descriptors import shape_numbers
from .synonyms import synonyms

COUNTS = ("one", "two", "three", "four", "five", "several", "many")  # several: 6 to 9, many: 10 and more
SIZES = ("small", "medium", "large")
#: Area of one instance as a fraction of the image: below the first is small, from the second on large.
SIZE_LIMITS = (0.03, 0.15)
SHAPES = ("round", "oval", "elongated", "irregular")
#: Below this share of its convex hull a shape is irregular; otherwise minor / major axis decides round, oval, elongated.
SOLIDITY_LIMIT, ROUND_LIMIT, OVAL_LIMIT = 0.85, 0.75, 0.5
#: Thirds of the image in which the centroid lies, row by row.
LOCATIONS = (
    "upper left", "upper middle", "upper right",
    "middle left", "center", "middle right",
    "lower left", "lower middle", "lower right",
)  # fmt: skip
#: How one structure lies relative to another in the image, by the longer of the two distances between the centroids.
RELATIONS = ("above", "below", "left of", "right of")
MODALITIES = {
    "ct": "CT", "mri": "MRI", "ultrasound": "Ultrasound", "endoscopy": "Endoscopy", "microscopy": "Microscopy", "xray": "X-ray",
}  # fmt: skip
_MODALITY_KEYS = {shown.lower(): key for key, shown in MODALITIES.items()} | {key: key for key in MODALITIES}
#: Plurals that adding "s" or "es" does not make, by their endings.
_IRREGULAR = (
    ("nucleus", "nuclei"), ("hippocampus", "hippocampi"), ("bronchus", "bronchi"), ("alveolus", "alveoli"),
    ("thrombus", "thrombi"), ("calculus", "calculi"), ("villus", "villi"), ("vertebra", "vertebrae"),
    ("metastasis", "metastases"), ("stenosis", "stenoses"), ("diverticulum", "diverticula"), ("foramen", "foramina"),
)  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """One grounded phrase. Empty slots are not mentioned; ``query`` None means that no mask query is named."""

    name: str
    query: int | None = None
    count: str = ""
    size: str = ""
    shape: str = ""
    location: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", clean_name(self.name))
        if not self.name:
            raise ValueError("a phrase needs a name")
        for slot, words in (("count", COUNTS), ("size", SIZES), ("shape", SHAPES), ("location", LOCATIONS)):
            if getattr(self, slot) and getattr(self, slot) not in words:
                raise ValueError(f"{slot} '{getattr(self, slot)}' is not one of {', '.join(words)}")


@dataclass(frozen=True)
class Description:
    """What an answer says. ``absent`` is the name asked for and not there; no phrases and no ``absent`` is "no finding".

    With a ``relation`` the phrases (or nothing) lie so relative to ``other``.
    """

    modality: str = ""  # "ct", "mri", ... or any other name as it is
    region: str = ""
    phrases: tuple[Phrase, ...] = ()
    absent: str | None = None
    relation: str = ""
    other: Phrase | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "modality", _clean_modality(self.modality))
        object.__setattr__(self, "region", _clean_region(self.region))
        object.__setattr__(self, "phrases", tuple(self.phrases))
        if self.absent is not None:
            object.__setattr__(self, "absent", clean_name(self.absent))
            if not self.absent or self.phrases:
                raise ValueError("absent needs a name, and excludes phrases")
        if (self.relation != "") != (self.other is not None) or (self.relation and self.absent is not None):
            raise ValueError("a relation needs another structure, and excludes absent")
        if self.relation and self.relation not in RELATIONS:
            raise ValueError(f"relation '{self.relation}' is not one of {', '.join(RELATIONS)}")


def clean_name(name: str) -> str:
    """A name as the grammar prints it: single spaces, no angle brackets, no full stop or question mark at the end."""
    name = " ".join(name.replace("<", "(").replace(">", ")").split())
    return name.rstrip(".?! ")


def _clean_modality(modality: str) -> str:
    modality = clean_name(modality.replace(":", " "))
    modality = re.sub(r" of(?= |$)", "-of", modality)  # " of " separates the region
    return "" if modality.lower() == "image" else _MODALITY_KEYS.get(modality.lower(), modality)


def _clean_region(region: str) -> str:
    return re.sub(r"^(the )+", "", clean_name(region.replace(":", " ")))


# -- writing ---------------------------------------------------------------------------------------------------------


def describe(description: Description) -> str:
    """The sentence of a description."""
    head = MODALITIES.get(description.modality, description.modality) or "Image"
    if description.region:
        head += f" of {description.region}" if _is_plural(description.region) else f" of the {description.region}"
    if description.absent is not None:
        return f"{head}: no {description.absent} is visible."
    if not description.phrases and not description.other:
        return f"{head}: no finding."
    parts = [write_phrase(phrase) for phrase in description.phrases] or ["nothing"]
    related = f" {description.relation} the {write_phrase(description.other)}" if description.other else ""
    return f"{head}: {', '.join(parts[:-1])}{' and ' if parts[:-1] else ''}{parts[-1]}{related}."


def write_phrase(phrase: Phrase) -> str:
    """A phrase with its markup, as :func:`describe` puts it into the sentence."""
    name, before = phrase.name, [w for w in (phrase.count, phrase.size, phrase.shape) if w]
    if phrase.count not in ("", "one"):
        plural = pluralise(name)
        if plural is None:
            before.append("areas of")
        else:
            name = plural
    tag = "" if phrase.query is None else f"<seg{phrase.query}>"
    place = f" in the {phrase.location}" if phrase.location else ""
    return " ".join([*before, f"<p>{name}</p>{tag}{place}"])


def pluralise(name: str) -> str | None:
    """The plural, or None where :func:`singular` would not lead back (the sentence then says "areas of <name>")."""
    plural = None
    for ending, replacement in _IRREGULAR:
        if name.endswith(ending):
            plural = name[: -len(ending)] + replacement
    if plural is None:
        last = re.split(r"[ -]", name)[-1]
        if not (last.isascii() and last.isalpha() and last.islower()) or _is_plural(name):
            return None
        if re.search(r"[^aeiou]y$", name):
            plural = name[:-1] + "ies"
        else:
            plural = name + ("es" if re.search(r"(?:s|x|z|ch|sh)$", name) else "s")
    return plural if singular(plural) == name else None


def singular(name: str) -> str:
    """The singular of a plural that :func:`pluralise` wrote; other names come back unchanged."""
    for ending, replacement in _IRREGULAR:
        if name.endswith(replacement):
            return name[: -len(replacement)] + ending
    if re.search(r"[^aeiou]ies$", name):
        return name[:-3] + "y"
    if re.search(r"(?:s|x|z|ch|sh)es$", name):
        return name[:-2]
    return name[:-1] if re.search(r"[^s]s$", name) else name


def _is_plural(name: str) -> bool:
    return bool(re.search(r"[^siu]s$", name)) or any(name.endswith(plural) for _, plural in _IRREGULAR)


# -- reading ---------------------------------------------------------------------------------------------------------

_HEAD = re.compile(r"\s*([^:<>]*?)(?: of (?:the )?([^:<>]*))?:(?:\s|$)")
_ABSENT = re.compile(r"no (.+) (?:is|are) visible", re.IGNORECASE | re.DOTALL)
#: Finds what :func:`write_phrase` wrote; :func:`phrase_of` reads a match.
PHRASE = re.compile(
    r"(?:\b({}) )?(?:\b({}) )?(?:\b({}) )?(\bareas of )?<p>([^<>]*)</p>(?:<seg(\d{{0,6}})>)?(?: in the ({}))?".format(
        *("|".join(words) for words in (COUNTS, SIZES, SHAPES, LOCATIONS))
    ),
    re.IGNORECASE,
)


#: A relation is followed by a tagged phrase. A name cannot be taken for one: behind a name its tag closes, none opens.
_RELATED = re.compile(
    r" ({}) the ((?:(?:{}|areas of) )*<p>.*)".format("|".join(RELATIONS), "|".join((*COUNTS, *SIZES, *SHAPES))),
    re.IGNORECASE | re.DOTALL,
)


def parse(text: str) -> Description:
    """What a sentence says. Never raises: what is not understood is left out. ``<seg>`` without a number is query None."""
    head = _HEAD.match(text)
    modality, region = (head.group(1), head.group(2) or "") if head else ("", "")
    body = text[head.end() :] if head else text
    related = _RELATED.search(body)
    others = _phrases(related.group(2)) if related else ()
    if related and others:
        return Description(modality, region, _phrases(body[: related.start()]), None, related.group(1).lower(), others[0])
    phrases = _phrases(body)
    absent = None if phrases else _ABSENT.search(body)
    name = absent.group(1) if absent and clean_name(absent.group(1)) else None
    return Description(modality, region, phrases, name)


def _phrases(text: str) -> tuple[Phrase, ...]:
    return tuple(filter(None, map(phrase_of, PHRASE.finditer(text))))


def phrase_of(match: re.Match[str]) -> Phrase | None:
    """The phrase of a match of :data:`PHRASE`; None if it names nothing."""
    count, size, shape, areas, name, query, location = (group or "" for group in match.groups())
    if not clean_name(name):
        return None
    if count.lower() not in ("", "one") and not areas:
        name = singular(name)
    return Phrase(name, int(query) if query else None, count.lower(), size.lower(), shape.lower(), location.lower())


# -- looking ---------------------------------------------------------------------------------------------------------


def observe(
    mask: np.ndarray, name: str, modality: str = "", region: str = "", query: int | None = 0, count: int | None = None
) -> Description:
    """The description of one structure from its bool mask ``[H, W]``; an empty mask is an absent structure.

    ``count`` is the number of instances where it is known; otherwise components are counted, without crumbs.
    """
    phrase = observe_phrase(mask, name, query, count)
    return Description(modality, region, absent=name) if phrase is None else Description(modality, region, (phrase,))


def observe_phrase(mask: np.ndarray, name: str, query: int | None = 0, count: int | None = None) -> Phrase | None:
    """The slots of one mask, or None for an empty one. Size is the mean over instances, shape that of the median one."""
    mask = np.asarray(mask, bool)
    if not mask.any():
        return None
    x0, y0, x1, y1 = mask_box(mask)
    crop = mask[y0:y1, x0:x1]
    parts, _ = label_components(crop)
    areas = np.bincount(parts.reshape(-1))
    areas[0] = 0
    kept = np.flatnonzero(areas >= min(areas.max(), max(INSTANCE_MIN_PIXELS, INSTANCE_MIN_SHARE * areas.max())))
    middle = kept[np.argsort(areas[kept], kind="stable")[len(kept) // 2]]
    number = len(kept) if count is None else max(1, count)
    height, width = mask.shape
    size = size_word(areas.sum() / number / (height * width))
    row_mean = float(np.dot(crop.sum(1), np.arange(y0, y1) + 0.5) / areas.sum())
    column_mean = float(np.dot(crop.sum(0), np.arange(x0, x1) + 0.5) / areas.sum())
    location = location_word(column_mean / width, row_mean / height)
    return Phrase(name, query, count_word(number), size, shape_word(parts == middle), location)


def count_word(count: int) -> str:
    return COUNTS[count - 1] if count <= 5 else COUNTS[5] if count < 10 else COUNTS[6]


def size_word(fraction: float) -> str:
    """The word for an area, given as a fraction of the image."""
    return SIZES[int(np.searchsorted(SIZE_LIMITS, fraction, side="right"))]


def location_word(x: float, y: float) -> str:
    """The word for a centroid, given as fractions of the image's sides."""
    return LOCATIONS[min(2, int(y * 3)) * 3 + min(2, int(x * 3))]


def relation_word(a: np.ndarray, b: np.ndarray) -> str:
    """How mask ``a`` lies relative to mask ``b``, both bool ``[H, W]`` and not empty: along the axis that parts them more."""
    return relation_of_centres(*((float(x.mean()), float(y.mean())) for y, x in (np.nonzero(m) for m in (a, b))))


def relation_of_centres(a: tuple[float, float], b: tuple[float, float]) -> str:
    """As :func:`relation_word`, for two centroids ``(x, y)`` in pixels."""
    (xa, ya), (xb, yb) = a, b
    if abs(ya - yb) >= abs(xa - xb):
        return RELATIONS[0] if ya < yb else RELATIONS[1]
    return RELATIONS[2] if xa < xb else RELATIONS[3]


def shape_word(mask: np.ndarray) -> str:
    """The word for a connected, non-empty mask; see :data:`SOLIDITY_LIMIT`."""
    area, ratio, solidity = shape_numbers(mask)
    if solidity < SOLIDITY_LIMIT and area >= 16:  # fewer pixels have no outline to speak of
        return "irregular"
    return "round" if ratio >= ROUND_LIMIT else "oval" if ratio >= OVAL_LIMIT else "elongated"


# -- asking ----------------------------------------------------------------------------------------------------------

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
QUESTION_KINDS = tuple(QUESTIONS)


#: Kinds that ask about several structures at once, so for no single target.
SEVERAL = ("relation", "neighbours")


def question(
    kind: str, name: str | None = None, rng: np.random.Generator | None = None, other: str | None = None, relation: str = ""
) -> str:
    """A question of a kind (:data:`QUESTION_KINDS`) about ``name``; the first template without ``rng``.

    Kind "relation" also needs ``other``; kind "neighbours" needs ``other`` and one of :data:`RELATIONS`, and no name.
    """
    templates = QUESTIONS[kind]
    template = templates[0 if rng is None else int(rng.integers(len(templates)))]
    needed = {"a name": (name, "{name}", "{a}", "{many}"), "other": (other, "{other}"), "relation": (relation, "{relation}")}
    for told, (value, *slots) in needed.items():
        if not value and any(slot in template for slot in slots):
            raise ValueError(f"a question of kind {kind} needs {told}")
    name, other = clean_name(name or ""), clean_name(other or "")
    article = ("an " if name[:1].lower() in "aeiou" else "a ") + name
    return template.format(name=name, a=article, many=pluralise(name) or name, other=other, relation=relation)


def _matcher(template: str) -> re.Pattern[str]:
    pattern = re.escape(template.rstrip(".?")).replace(r"\{a\}", "an? (.+?)")
    for slot in ("name", "many", "other"):
        pattern = pattern.replace(rf"\{{{slot}\}}", f"(?P<{slot}>.+?)")
    pattern = pattern.replace(r"\{relation\}", f"(?P<relation>{'|'.join(RELATIONS)})")
    return re.compile(pattern.replace("the\\ (", "(?:the )?(") + r"\s*[.?!]*", re.IGNORECASE)


_COUNTING = [_matcher(t) for t in QUESTIONS["count"]]
_NAMING = [_matcher(t) for kind, ts in QUESTIONS.items() for t in ts if kind not in ("name", "count", *SEVERAL) and "{" in t]
_RELATIVE = [_matcher(t) for t in QUESTIONS["relation"]]
_NEIGHBOURS = [_matcher(t) for t in QUESTIONS["neighbours"]]
_OPEN = [_matcher(t) for kind, ts in QUESTIONS.items() for t in ts if kind in SEVERAL or "{" not in t]


def subject_of(text: str) -> str | None:
    """What a question asks for: templates stripped, a bare name as it is but for "the".

    None for empty texts, open questions ("What do you see?") and those about several structures ("What is below the liver?").
    """
    text = " ".join(text.split())
    if not clean_name(text) or any(pattern.fullmatch(text) for pattern in _OPEN):
        return None
    for pattern in _NAMING:
        match = pattern.fullmatch(text)
        if match and clean_name(match.group(1)):
            return clean_name(match.group(1))
    for pattern in _COUNTING:
        match = pattern.fullmatch(text)
        if match and clean_name(match.group(1)):
            name = clean_name(match.group(1))
            return singular(name.lower()).upper() if name.isupper() else singular(name)
    return re.sub(r"(?i)^the (?=.)", "", clean_name(text))


def relation_asked(text: str) -> tuple[str, str] | None:
    """The two structures that a question for a relation names: ("spleen", "liver"); None for another question."""
    for pattern in _RELATIVE:
        if match := pattern.fullmatch(" ".join(text.split())):
            return clean_name(match["name"]), clean_name(match["other"])
    return None


def neighbours_asked(text: str) -> tuple[str, str] | None:
    """The relation and the structure that a question for neighbours names: ("below", "liver"); None for another question."""
    for pattern in _NEIGHBOURS:
        if match := pattern.fullmatch(" ".join(text.split())):
            return match["relation"].lower(), clean_name(match["other"])
    return None


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
