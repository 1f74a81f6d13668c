"""Sentences around the names of a request, in English (``tables/sentences.txt``)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .names import fold, words_of
from .tables import read_lines

#: The relation of what lies within a short distance in any direction; the grammar has no word for it.
NEXT_TO = "next to"
#: "to the left of", "beneath" ... as relations of the grammar or :data:`NEXT_TO`, longest first.
_RELATION_WORDS = {
    r"(?:to|on|at) the (?:left|left-hand) (?:side )?of": "left of",
    r"(?:to|on|at) the (?:right|right-hand) (?:side )?of": "right of",
    r"left (?:side )?of|left from": "left of",
    r"right (?:side )?of|right from": "right of",
    r"above|over|on top of|superior to|higher than": "above",
    r"below|under|underneath|beneath|inferior to|lower than": "below",
    r"(?:right |directly )?(?:next|adjacent|close) to|beside|near(?:by)?|around|surround(?:s|ing)|neighbou?rs? of": NEXT_TO,
}
_THINGS = r"(?:structures?|organs?|things?|objects?|entities|findings?|anatomy|everything|anything|all|what|which(?: ones?)?)"
_VERBS = (
    r"(?:segment|outline|mark|delineate|contour|draw|trace|annotate|highlight|show|display|point (?:out|to|at)|label|circle"
    r"|identify|detect|extract|isolate|give|get|mask|select|colou?r|indicate|describe|present|see|find|visuali[sz]e|name)"
)
_PICTURE = r"(?:image|picture|photo(?:graph)?|scan|slice|frame|video|x-?ray|radiograph|study|exam|view|film|case|figure)"
_LENGTH = r"(?:milli|centi)?met(?:er|re)s?|mm\^?2?|cm\^?2?|mm²|cm²|pixels?|square \w+|px|inch(?:es)?|f(?:ee|oo)t"


#: A word before "image" that restricts no place.
_NO_SIDE = r"(?!(?:left|right|upper|lower|middle|central|top|bottom|cent(?:er|re)|half|side|first|last|second|next|other) )\w+ "
#: A place that is the whole image: "How many polyps are there in the colon?", not "in the left lung".
_PLACE = (
    rf"(?: (?:in|on|within) (?:the|this|that|my|these) (?:{_NO_SIDE})?(?:{_PICTURE}|ct|mri?|ultrasound|patient|body|abdomen"
    r"|chest|thorax|colon|bowel|brain|head|breast|retina|eye)s?)?"
)


_MACROS = {
    "THE": r"(?:the\s+)?", "BE": r"(?:is|are|was|were|lies?|'s)", "RELATION_WORDS": "|".join(_RELATION_WORDS),
    "RELATION": f"(?P<r>{'|'.join(_RELATION_WORDS)})", "THINGS": _THINGS, "VERBS": _VERBS, "PICTURE": _PICTURE,
    "LENGTH": _LENGTH, "PLACE": _PLACE,
}  # fmt: skip

FILLER = re.compile(
    r"^(?:please|pls|plz|thank you|good (?:morning|afternoon|evening|day)|yes or no"
    r"|maybe|perhaps|possibly|hi|hello|hey|hallo|ok(?:ay)?|so|and|now|then|kindly|thanks|doctor|dear \w+|assistant|quickly|just"
    r"|also"
    r"|try to|(?:can|could|would|will) (?:you|u)(?: please| kindly)?"
    rf"(?= (?:please )?(?:{_VERBS}|count|measure|locate|tell|list|draw|help))"
    r"|(?:can|could) i (?:please )?(?=see|get|have)|(?:i|we)(?:'d| would)? (?:want|need|like|wish)(?: you)? to"
    r"|help me(?: to)?|go ahead and|tell (?:me|us)(?! about)|let (?:me|us) know|do you know|i wonder|i want to know"
    r"|let's)[\s,:!.]+",
    re.IGNORECASE,
)  # fmt: skip
IN_THE_IMAGE = re.compile(
    r"[\s,]+(?:please|pls|plz|thanks|thx|thank you|yes or no|in (?:\w+ )?detail|"
    r"[(\[](?:mm\^?2?|cm\^?2?|mm²|cm²|px|pixels?)[)\]]?|"
    r"for me|now|again|anywhere|right now|at all|"
    r"(?:in|on|within|from|of|inside|across) (?:the|this|that|my|these|your|an?|whole|entire)+ "
    rf"(?:{_NO_SIDE}){{0,3}}?(?:{_PICTURE}|ct|mri?|mr|ultrasound|sonogram|echo|patient|photo|mammogram|micrograph|endoscopy"
    r"|sonography)s?)$",
    re.IGNORECASE,
)  # fmt: skip
#: First words of a question or request that is no bare name.
ASKING = words_of(
    """what which where who whom whose why when how is are was were do does did can could would should will shall may might has
    have had am if whether tell explain give write draw list describe compare predict diagnose recommend suggest calculate
    classify grade stage i you we they he she it that there please let rate translate summarize summarise ignore make create
    should"""
)
#: What cannot be seen in one picture, or what a model of structures does not judge.
NO_QUESTION = re.compile(
    r"\b(?:malignan\w*|benign\w*|cancerous|diagnos\w*|prognos\w*|treat\w*|therap\w*|age|old|gender|sex|normal|abnormal\w*|healthy|"
    r"unusual|wrong|anomal\w*|patholog\w*|"
    r"neither|nor|don't|do not|never|not|but|except|excluding|without|other than|apart from|"
    r"enlarged|dangerous|serious|biopsy|stage|grade|birads|bi-rads|survival|surgery|medication|name of the patient|cause[sd]?|"
    r"volume|weigh\w*|heavy|depth|density|stable|growing|progress\w*|better|worse|sick|ill|pregnan\w*|contrast|dose)\b"
    r"|^no\b|\b(?:is|are|see) no\b|</?p>|<seg\d*>",
    re.IGNORECASE,
)


#: Quotation marks of other kinds as straight ones.
QUOTES = str.maketrans("’‘‚‛´`" + "“”„‟«»「」『』", "'" * 6 + '"' * 10)
CONTRACTION = re.compile(r"\b(where|what|how|how big|how large|who|which|there)'s\b", re.IGNORECASE)
#: Questions with a negation, which ask the same without it: "Isn't there a polyp?", "Is the spleen not visible?"
NEGATIVE = re.compile(
    r"^(is|are|was|were|do|does|did|can|could|would)(?:n't|'t)(?= (?:there|you|we|i|it|the|this|that|any|he|she)\b)"
    r"|^((?:is|are|was|were|do|does|did|can|could|would) (?:\w+ ){1,5}?)(?:not|no) ",
    re.IGNORECASE,
)
#: Tags and entities of HTML: as white space. The markup of answers stays: a request that writes it is refused.
MARKUP = re.compile(r"</?(?!p>|seg)[a-z][^<>]{0,200}>|&(?:lt|gt|quot|apos|nbsp|#[0-9]{1,5});", re.IGNORECASE)
#: Control characters as white space; characters that only steer how others are shown are left out.
HIDDEN = {
    **dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " "),
    **dict.fromkeys((0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF), ""),
}
#: Sentences of a request, and clauses that "and" joins: "Where is the polyp and how large is it?"
_REQUESTS = (
    r"(?:how|where|what|which|is|are|do|does|can|measure|count|segment|outline|show|find|locate|mark|highlight|describe|tell"
    r"|list|r/o|rule out|suspected|suspicion|evaluate|assess|check)\b"
)
CLAUSE_END = re.compile(
    rf"[.?!;:。？！；]+(?:\s+|$)|\s*,?\s+(?:and(?: (?:also|then))?|then)\s+(?={_REQUESTS})|\s*,\s+(?={_REQUESTS})|\s+(?=r/o\b)",
    re.IGNORECASE,
)
#: Predicates of what a reference points at, that are no name: "Is it large?"
PREDICATE = re.compile(
    r"^(?:is|are|was|were|does|do) (?:it|this|that|these|those|they|he|she) (?!an? |the |any )\S", re.IGNORECASE
)
#: Everything that can be seen.
ALL = re.compile(
    r"(?:(?:any|all|the|other|visible|known|different|of) )*"
    r"(?:structures|organs|things|objects|entities|findings|everything|anything|something)",
    re.IGNORECASE,
)
#: Punctuation around a sentence, and the number of a list.
AROUND = re.compile(r'^(?:[^\w<{]|\d{1,2}[.)]\s)+|[\s"\'.,;:!?。？！…()-]+$')


class Match(NamedTuple):
    """A sentence that was recognised.

    Args:
        kind: of ``intents.KINDS``; ``frame``: of ``questions.QUESTIONS``, or "size".
        subject, other: as written; None where the sentence has none.
        relation: of ``grammar.RELATIONS``, :data:`NEXT_TO`, or "".
    """

    kind: str
    frame: str
    subject: str | None = None
    relation: str = ""
    other: str | None = None


def _sentences() -> Iterator[tuple[str, str, str]]:
    for line in read_lines("sentences.txt"):
        kind, frame, pattern = line.split(" ", 2)
        for name, words in _MACROS.items():
            pattern = pattern.replace(f"{{{name}}}", words)
        yield kind, frame, pattern


@lru_cache(maxsize=1000)
def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of :data:`PATTERNS`. A bare name needs none, and most questions a few; all of them take 25 ms."""
    return re.compile(pattern, re.IGNORECASE)


#: Kind, frame and pattern of every sentence.
PATTERNS = list(_sentences())
RELATION_PATTERNS = [(re.compile(words, re.IGNORECASE), relation) for words, relation in _RELATION_WORDS.items()]


def matches(text: str) -> Iterator[Match]:
    """Every way to read a sentence of English, the most specific first; a bare name has none."""
    text = plain(text)
    shorter = without_filler(text)
    for kind, frame, words in PATTERNS:
        pattern = compiled(words)
        match = pattern.fullmatch(shorter) or (pattern.fullmatch(text) if kind in ("describe", "open") else None)
        if match:
            groups = match.groupdict()
            relation = next((word for one, word in RELATION_PATTERNS if one.fullmatch(groups.get("r") or "")), "")
            yield Match(kind, frame, groups.get("s"), relation, groups.get("o"))


def plain(text: str) -> str:
    """A text with letters of the usual width, single spaces, straight quotes, no markup, and no punctuation around it.

    A negative question is the question without the negation.
    """
    text = " ".join(unicodedata.normalize("NFKC", without_markup(text).translate(QUOTES)).split())
    return NEGATIVE.sub(r"\1\2", AROUND.sub("", CONTRACTION.sub(r"\1 is", text)))


def without_markup(text: str) -> str:
    """A text without tags, entities and control characters."""
    return MARKUP.sub(" ", text.translate(HIDDEN)).replace("&amp;", "&")


def clauses(text: str) -> list[str]:
    """The sentences of a request and its clauses that begin as requests do, without those that only greet."""
    parts = [plain(part) for part in CLAUSE_END.split(text.translate(QUOTES))]
    return [part for part in parts if part and not FILLER.fullmatch(f"{part} ")]


def without_filler(text: str) -> str:
    """A sentence without "please" before and "in this image" behind it."""
    while (shorter := plain(IN_THE_IMAGE.sub("", FILLER.sub("", text, count=1)))) != text and shorter:
        text = shorter
    return text


def is_question(text: str) -> bool:
    """Whether a text begins as a question or a request does, or is about what no picture of structures tells."""
    words = fold(text).split()
    return bool(words) and (words[0] in ASKING or is_judgement(text))


def is_judgement(text: str) -> bool:
    """Whether a text is about what no picture of structures tells: age, diagnosis, grade."""
    return NO_QUESTION.search(text) is not None
