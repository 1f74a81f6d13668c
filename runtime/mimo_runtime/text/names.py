"""How names are compared: without case, accents, articles, word order, number, and British spelling."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from .grammar import is_plural, singular

#: A name as it is compared: its words, sorted.
Key = tuple[str, ...]


def words_of(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


#: Texts whose comparison form is kept: the names in a request are compared many times.
_CACHED = 1024


#: Words that make no other name: articles and "of", "on", "in", in the languages of ``translations``.
SMALL_WORDS = words_of(
    "the a an of in on for to any some my your his her its this that these those all every each both bilateral visible"
    " beide beiden ambos ambas dos deux der die das des dem den ein eine einen el la los las lo de del un una unos unas le"
    " les l d du une der"
)
#: Letters that no decomposition of Unicode separates, and a Chinese particle.
LIGATURES = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "的": " "})
#: British spellings, as they begin a word, and the American ones.
SPELLINGS = (
    ("oesophag", "esophag"), ("foetus", "fetus"), ("foetal", "fetal"), ("tumour", "tumor"), ("haem", "hem"),
    ("oedema", "edema"),
)  # fmt: skip
#: Endings in s that are no plural.
NO_PLURAL = re.compile(r"(?:ss|us|is|creas)$")
IRREGULAR_PLURAL = re.compile(r"(?:clei|campi|bronchi|alveoli|thrombi|calculi|villi|ebrae|ticula|amina|tases|noses)$")


@lru_cache(_CACHED)
def fold(text: str) -> str:
    """Lower case without accents and punctuation, words separated by one space; any text, in any script."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(LIGATURES)
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).translate(LIGATURES)
    return " ".join(re.sub(r"[^\w]|_", " ", text).split())


def is_plural_name(name: str) -> bool:
    """Whether a name takes "are": "ventricles", not "pancreas"."""
    return is_plural(name) and not NO_PLURAL.search(name)


@lru_cache(_CACHED)
def key_of(name: str) -> Key:
    """The words of a name that make it another one, each in the singular; () for a name without any."""
    return tuple(sorted(_word_key(word) for word in fold(name).split() if word not in SMALL_WORDS))


def _word_key(word: str) -> str:
    for british, american in SPELLINGS:
        if word.startswith(british):
            word = american + word[len(british) :]
    if IRREGULAR_PLURAL.search(word):
        return singular(word)
    return word if len(word) < 4 or NO_PLURAL.search(word) else singular(word)


def is_one_edit(one: str, other: str) -> bool:
    """Whether a letter added, dropped or replaced, or two neighbours swapped, makes one of the other; equal words are not."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    if len(one) > len(other):
        one, other = other, one
    start = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), len(one))
    if len(one) < len(other):
        return one[start:] == other[start + 1 :]
    swapped = one[start + 1 : start + 2] + one[start : start + 1] + one[start + 2 :]
    return one[start + 1 :] == other[start + 1 :] or swapped == other[start:]
