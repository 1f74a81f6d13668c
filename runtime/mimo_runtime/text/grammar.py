"""The grammar of text answers, in both directions: :func:`describe` writes, :func:`parse` reads.

``parse(describe(x)) == x`` holds for every :class:`Description`; ``parse`` also accepts any other text and returns what it
recognises. Forms::

    Endoscopy of the colon: one large oval <p>polyp</p><seg0> in the upper left.
    Microscopy of cells: many small round <p>cell nuclei</p><seg0> in the center.
    CT of the abdomen: <p>liver</p><seg5>, <p>spleen</p><seg1> and <p>aorta</p><seg8>.
    Ultrasound of the breast: no breast lesion is visible.
    MRI of the brain: no finding.
    CT of the abdomen: <p>spleen</p><seg12> right of the <p>liver</p><seg7>.
    CT of the abdomen: nothing below the <p>liver</p><seg7>.
    Endoscopy of the colon: possibly one small round <p>polyp</p><seg0> in the upper left of the image.

Training writes locations without "of the image"; answers have it. Locations and relations are those of the image as shown:
"right of" is towards larger x.

A name is bounded by its tags (or by the fixed words around it), so names may hold digits, commas and "and".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

COUNTS = ("one", "two", "three", "four", "five", "several", "many")  # several: 6 to 9, many: 10 and more
SIZES = ("small", "medium", "large")
SHAPES = ("round", "oval", "elongated", "irregular")
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
    "mammography": "Mammography", "fundus": "Fundus photograph",
}  # fmt: skip
_MODALITY_KEYS = {shown.lower(): key for key, shown in MODALITIES.items()} | {key: key for key in MODALITIES}
#: Plurals that adding "s" or "es" does not make, by their endings.
IRREGULAR = (
    ("nucleus", "nuclei"), ("hippocampus", "hippocampi"), ("bronchus", "bronchi"), ("alveolus", "alveoli"),
    ("thrombus", "thrombi"), ("calculus", "calculi"), ("villus", "villi"), ("vertebra", "vertebrae"),
    ("metastasis", "metastases"), ("stenosis", "stenoses"), ("diverticulum", "diverticula"), ("foramen", "foramina"),
)  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """One grounded phrase. Empty slots are not mentioned; ``query`` None means that no mask query is named.

    ``uncertain`` phrases begin with "possibly".
    """

    name: str
    query: int | None = None
    count: str = ""
    size: str = ""
    shape: str = ""
    location: str = ""
    uncertain: bool = False

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


def describe_head(description: Description) -> str:
    """Modality and region: "CT of the abdomen"."""
    head = MODALITIES.get(description.modality, description.modality) or "Image"
    if description.region:
        head += f" of {description.region}" if is_plural(description.region) else f" of the {description.region}"
    return head


def describe(description: Description) -> str:
    """The sentence of a description."""
    head = describe_head(description)
    if description.absent is not None:
        return f"{head}: no {description.absent} is visible."
    if not description.phrases and not description.other:
        return f"{head}: no finding."
    parts = [write_phrase(phrase) for phrase in description.phrases] or ["nothing"]
    related = f" {description.relation} the {write_phrase(description.other)}" if description.other else ""
    return f"{head}: {listed(parts)}{related}."


def listed(parts: Sequence[str], word: str = "and") -> str:
    """ "A, B and C"."""
    return f"{', '.join(parts[:-1])}{f' {word} ' if parts[:-1] else ''}{parts[-1]}"


def write_phrase(phrase: Phrase, *, of_image: bool = False, in_areas: bool = False) -> str:
    """A phrase with its markup, as :func:`describe` puts it into the sentence.

    Args:
        of_image: say "in the upper left of the image" instead of "in the upper left".
        in_areas: say "two areas of liver" instead of "two livers".
    """
    name, before = phrase.name, [w for w in (phrase.count, phrase.size, phrase.shape) if w]
    if phrase.count not in ("", "one"):
        plural = None if in_areas else pluralise(name)
        if plural is None:
            before.append("areas of")
        else:
            name = plural
    tag = "" if phrase.query is None else f"<seg{phrase.query}>"
    place = f" in the {phrase.location}{' of the image' if of_image else ''}" if phrase.location else ""
    return " ".join([*(["possibly"] if phrase.uncertain else []), *before, f"<p>{name}</p>{tag}{place}"])


def pluralise(name: str) -> str | None:
    """The plural, or None where :func:`singular` would not lead back (the sentence then says "areas of <name>")."""
    plural = None
    for ending, replacement in IRREGULAR:
        if name.endswith(ending):
            plural = name[: -len(ending)] + replacement
    if plural is None:
        last = re.split(r"[ -]", name)[-1]
        if not (last.isascii() and last.isalpha() and last.islower()) or is_plural(name):
            return None
        if re.search(r"[^aeiou]y$", name):
            plural = name[:-1] + "ies"
        else:
            plural = name + ("es" if re.search(r"(?:s|x|z|ch|sh)$", name) else "s")
    return plural if singular(plural) == name else None


def singular(name: str) -> str:
    """The singular of a plural that :func:`pluralise` wrote; other names come back unchanged."""
    for ending, replacement in IRREGULAR:
        if name.endswith(replacement):
            return name[: -len(replacement)] + ending
    if re.search(r"[^aeiou]ies$", name):
        return name[:-3] + "y"
    if re.search(r"(?:s|x|z|ch|sh)es$", name):
        return name[:-2]
    return name[:-1] if re.search(r"[^s]s$", name) else name


def is_plural(name: str) -> bool:
    """Whether a name has the ending of a plural; some singular names have it, too."""
    return bool(re.search(r"[^siu]s$", name)) or any(name.endswith(plural) for _, plural in IRREGULAR)


# -- reading ---------------------------------------------------------------------------------------------------------

_HEAD = re.compile(r"\s*([^:<>]*?)(?: of (?:the )?([^:<>]*))?:(?:\s|$)")
_ABSENT = re.compile(r"no (.+) (?:is|are) (?:visible|found, but cannot be excluded)", re.IGNORECASE | re.DOTALL)
#: Finds what :func:`write_phrase` wrote; :func:`phrase_of` reads a match.
PHRASE = re.compile(
    r"(\bpossib(?:ly|le) )?(?:\b({}) )?(?:\b({}) )?(?:\b({}) )?(\bareas of )?<p>([^<>]*)</p>(?:<seg(\d{{0,6}})>)?"
    r"(?: in the ({})(?: of the image)?)?".format(*("|".join(words) for words in (COUNTS, SIZES, SHAPES, LOCATIONS))),
    re.IGNORECASE,
)


#: What an answer says about the model instead of the image.
_REFUSAL = re.compile(r"(?:^|(?<=[.:] ))This model (?:does not|answers|needs) .*", re.DOTALL)
#: A relation is followed by a tagged phrase. A name cannot be taken for one: behind a name its tag closes, none opens.
_RELATED = re.compile(
    r" ({}) the ((?:(?:possible|{}|areas of) )*<p>.*)".format("|".join(RELATIONS), "|".join((*COUNTS, *SIZES, *SHAPES))),
    re.IGNORECASE | re.DOTALL,
)


def parse(text: str) -> Description:
    """What a sentence says. Never raises: what is not understood is left out. ``<seg>`` without a number is query None.

    A refusal ("This model does not know ...") says nothing about the image.
    """
    text = _REFUSAL.sub("", text)
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
    possibly, count, size, shape, areas, name, query, location = (group or "" for group in match.groups())
    if not clean_name(name):
        return None
    if count.lower() not in ("", "one") and not areas:
        name = singular(name)
    return Phrase(
        name, int(query) if query else None, count.lower(), size.lower(), shape.lower(), location.lower(), bool(possibly)
    )
