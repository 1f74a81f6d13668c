"""The names that a model understands: every spelling that means one of its entities, and nothing wider or narrower."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from .names import Key, fold, is_one_edit, key_of, words_of
from .synonyms import ABBREVIATIONS, ACCEPTED, NOT_THE_SAME, synonyms
from .translations import TRANSLATIONS

#: Words for one part of a pair. Where a model has both parts, the name without the word means both: "kidneys", "hippocampus".
PAIRS = (("left", "right"), ("anterior", "posterior"), ("superior", "inferior"), ("upper", "lower"))
PART_WORDS = frozenset(word for pair in PAIRS for word in pair)
#: The same words in the languages of ``translations``, folded.
FOREIGN_PART_WORDS = words_of(
    "linke linker linkes linken rechte rechter rechtes rechten vorderer vordere hinterer hintere izquierdo izquierda izquierdos"
    " izquierdas derecho derecha derechos derechas gauche gauches droit droite droits droites anterieur posterieur"
)
#: Around the word for a part: "the left one".
ONE = re.compile(r"^the | ones?$")
#: Words that a typing error of a name is not taken for: other structures, positions, and words of everyday language.
OTHER_WORDS = words_of(
    """uterus ureter ureters urethra thyroid thymus ileum ilium jejunum humor humors interior exterior superior ulterior
    posterior anterior inferior adrenal renal venal portal postal hepatic gastric cystic cystitis splenic aortic aortas
    pleura plural
    polypoid polyps breath breadth fatal legion lesions region vesical vertical venous ventral central mucous mucus
    heat hart hear heard sine spin spied lier lever live river diver poly polio least beast brief"""
)
SEPARATOR = re.compile(
    r"\s*(?:[,;&+、，；/]|和|与|及|\b(?:and(?:\s+(?:also|then))?|then|or|und|oder|y|et"
    r"|as well as|plus|along with|together with)\b)\s*",
    re.IGNORECASE,
)
#: Most parts of a list that are one name, and most words of a name within a sentence.
MOST_PARTS, MOST_WORDS = 3, 5
#: Code points above it are Chinese, where no spaces separate words.
CHINESE_ABOVE = 0x2E7F
#: Letters for a side, before a name ("L kidney", "rt. lung") or behind it ("lung, L"). "L'aorte" begins with an article.
SIDES = {"l": "left", "lt": "left", "r": "right", "rt": "right"}
SIDE_BEFORE = re.compile(r"^(lt?|rt?)(?:\.\s*|\s+|-)(?=\w)", re.IGNORECASE)
SIDE_BEHIND = re.compile(r"(?:\s*,\s*|\s+|\s*\(\s*)(lt?|rt?)\.?\s*\)?$", re.IGNORECASE)
#: "left of the kidney" is a place, not the left kidney; "the lung on the left" may be meant in the image or in the patient.
PLACE = re.compile(r"\b(?:left|right|top|bottom|side) of\b|\bon the (?:left|right)\b")


class Vocabulary:
    """The names of one model's structures.

    Args:
        entities: of the model.

    Attributes:
        names: entities by the key of a name, several for a name of several ("lungs").
        ambiguous: entities by the key of a name that means one of them.
        words: of English names; typing errors are corrected to these.
        plurals: entities whose name is a plural, by the key of the singular.
    """

    def __init__(self, entities: Iterable[str]) -> None:
        self.entities = tuple(entities)
        self.names: dict[Key, tuple[str, ...]] = {}
        self.ambiguous: dict[Key, tuple[str, ...]] = {}
        self._add((key_of(entity), entity) for entity in self.entities)
        english = [(key_of(name), entity) for entity in self.entities for name in _english_names(entity)]
        pairs = [*((key_of(entity), entity) for entity in self.entities), *english]
        self._add(english)
        self._add_pairs(pairs)
        self.words = frozenset(word for key in self.names for word in key)
        self._add((key_of(name), entity) for entity in self.entities for name in _translations(entity))
        for english_name, languages in TRANSLATIONS.items():
            if both := self.names.get(key_of(english_name)):
                self._add_new({key_of(name): both for names in languages.values() for name in names})
        self.plurals = {key_of(e): e for e in self.entities if fold(e) not in (" ".join(key_of(e)), "") and _is_plural_name(e)}

    def resolve(self, name: str) -> tuple[str, ...]:
        """The entities that a name means: several for a name of several ("lungs"), none for an unknown or ambiguous one."""
        sided = _with_side(name)
        return (self._resolve(sided) if sided != name else ()) or self._resolve(name)

    def _resolve(self, name: str) -> tuple[str, ...]:
        key = key_of(name)
        if not key or PLACE.search(fold(name)):
            return ()
        if self.meanings(name):
            return ()
        if entities := self.names.get(key):
            return entities
        before, bracket, abbreviation = name.partition("(")  # "left ventricle (LV)"
        if bracket and (entities := self.names.get(key_of(before))) == self.names.get(key_of(abbreviation)):
            return entities or ()
        return self._corrected(name)

    def meanings(self, name: str) -> tuple[str, ...]:
        """The entities that an ambiguous name may mean; () for a name that is none."""
        key = key_of(name)
        entity = self.plurals.get(key)
        if entity is not None and fold(name).split()[-1:] != fold(entity).split()[-1:] and len(self._wider(key)) > 1:
            return self._wider(key)
        return self.ambiguous.get(key, ())

    def candidates(self, name: str) -> tuple[str, ...]:
        """Entities that an unknown name may mean: narrower or wider ones, or else those with a word of it or one like it."""
        key = key_of(name)
        narrower = self.meanings(name) or self._wider(key)
        near = tuple(e for e in self.entities if fold(name) in NOT_THE_SAME and fold(name) in synonyms(e))
        if narrower or near:
            return narrower or near
        wider = tuple(entity for entity in self.entities if set(key_of(entity)) <= set(key))
        nouns = set(key) - PART_WORDS
        return wider or self._with_words(nouns) or self._with_words(self._near(nouns))

    def _with_words(self, words: AbstractSet[str]) -> tuple[str, ...]:
        """Entities whose names have one of some words."""
        return tuple(entity for entity in self.entities if words & set(key_of(entity)))

    def _near(self, words: AbstractSet[str]) -> AbstractSet[str]:
        """Known words that a typing error makes one of some words of four letters and more."""
        return {right for word in words if len(word) > 3 for right in self.words if is_one_edit(word, right)}

    def split(self, names: str) -> list[tuple[str, tuple[str, ...]]]:
        """Names in a list ("liver, spleen and left kidney") with the entities of each; unknown names have none."""
        parts, separators = _split(names)
        if self._is_one_name(parts) and (entities := self.resolve(names)):
            return [(names.strip(), entities)]
        parts = [*_with_shared_noun(parts)]
        result, i = [], 0
        while i < len(parts):
            # The longest run of parts that is one name: "portal and splenic vein", "kidney, left".
            for end in range(min(len(parts), i + MOST_PARTS), i, -1):
                joined = "".join(part + sep for part, sep in zip(parts[i:end], [*separators[i : end - 1], ""]))
                if end == i + 1 or (self._is_one_name(parts[i:end]) and self.resolve(joined)):
                    result.append((joined.strip(), self.resolve(joined)))
                    i = end
                    break
        return result

    def _is_one_name(self, parts: Sequence[str]) -> bool:
        """Whether parts of a list may be one name: "kidney, left", not "lungs, nodule", whose first part is a name."""
        others = [part for part in parts if not self.resolve(part)]
        are_parts = bool(others) and all(_is_part(ONE.sub("", fold(part))) for part in others)
        return len(parts) == 1 or len(others) == len(parts) or are_parts

    def find(self, text: str) -> tuple[str, tuple[str, ...]] | None:
        """The longest known name within a text of any language, as it is written there, and its entities."""
        words = list(re.finditer(r"[^\W_]+", text))
        for length in range(min(MOST_WORDS, len(words)), 0, -1):
            for first in range(len(words) - length + 1):
                span = text[words[first].start() : words[first + length - 1].end()]
                if (entities := self.names.get(key_of(span))) and not PLACE.search(fold(span)):
                    return span, entities
        folded = fold(text)
        chinese = [" ".join(key) for key in self.names if len(key) == 1 and ord(key[0][0]) > CHINESE_ABOVE]
        name = max((name for name in chinese if name in folded), key=len, default=None)
        return None if name is None else (name, self.names[(name,)])

    def has_word(self, word: str) -> bool:
        """Whether a word is part of a known English name."""
        key = key_of(word)
        return bool(key) and key[0] in self.words

    def _add(self, names: Iterable[tuple[Key, str]]) -> None:
        """Names of one kind. A name that is known already keeps its meaning; one for two structures is ambiguous."""
        new: dict[Key, list[str]] = {}
        for key, entity in names:
            if key and entity not in new.setdefault(key, []):
                new[key].append(entity)
        self._add_new({key: tuple(entities) for key, entities in new.items() if len(entities) == 1})
        self.ambiguous.update((k, tuple(e)) for k, e in new.items() if len(e) > 1 and k not in self.names)

    def _add_new(self, names: dict[Key, tuple[str, ...]]) -> None:
        for key, entities in names.items():
            if key not in self.ambiguous:
                self.names.setdefault(key, entities)

    def _add_pairs(self, names: Sequence[tuple[Key, str]]) -> None:
        """ "kidneys" for the left and the right one, where the model has both."""
        known = dict(names)
        groups: dict[Key, tuple[str, ...]] = {}
        for one, other in PAIRS:
            for key, entity in known.items():
                if one in key and len(key) > 1:
                    rest = tuple(word for word in key if word != one)
                    counterpart = known.get(tuple(sorted((*rest, other))))
                    if counterpart is not None and counterpart != entity:
                        both = sorted((entity, counterpart), key=self.entities.index)
                        groups.setdefault(rest, tuple(both))
        self._add_new(groups)

    def _wider(self, key: Key) -> tuple[str, ...]:
        """Entities whose names have all the words of a name."""
        return tuple(entity for entity in self.entities if key and set(key) <= set(key_of(entity)))

    def _corrected(self, name: str) -> tuple[str, ...]:
        """The entities of a name with one typing error, if only one name is so near."""
        keys = {word: key_of(word) for word in fold(name).split()}
        wrong = [word for word, key in keys.items() if key and key[0] not in self.words]
        if len(wrong) != 1 or wrong[0] in OTHER_WORDS or len(wrong[0]) < 4:
            return ()
        rest = [key[0] for word, key in keys.items() if key and word != wrong[0]]
        spellings = (wrong[0], keys[wrong[0]][0])
        near = (right for right in self.words if any(_is_typo(spelling, right) for spelling in spellings))
        meanings = {self.names.get(tuple(sorted((*rest, right))), ()) for right in near} - {()}
        return meanings.pop() if len(meanings) == 1 else ()


def _with_side(name: str) -> str:
    """ "L kidney" and "kidney, L" as "left kidney"; other names as they are."""
    if before := SIDE_BEFORE.match(name):
        return f"{SIDES[before[1].casefold()]} {name[before.end() :]}"
    behind = SIDE_BEHIND.search(name)
    return f"{SIDES[behind[1].casefold()]} {name[: behind.start()]}" if behind else name


def _is_typo(word: str, right: str) -> bool:
    """Whether ``word`` is a typing error of ``right``. A short word keeps its first and last letter and replaces none."""
    if not is_one_edit(word, right) or right in PART_WORDS:
        return False
    if len(right) >= 6:
        return True
    same_letters = len(word) != len(right) or sorted(word) == sorted(right)
    return len(right) == 5 and same_letters and (word[0], word[-1]) == (right[0], right[-1])


def _is_plural_name(entity: str) -> bool:
    return key_of(entity)[-1:] != tuple(fold(entity).split()[-1:]) and len(key_of(entity)) == 1


def _english_names(entity: str) -> Iterator[str]:
    name = entity.casefold()
    for other in (*synonyms(name), *ACCEPTED.get(name, ()), *ABBREVIATIONS.get(name, ())):
        if other not in NOT_THE_SAME:
            yield other


def _translations(entity: str) -> Iterator[str]:
    for language, names in TRANSLATIONS.get(" ".join(entity.casefold().split()), {}).items():
        yield from names
        if language == "es":
            for name in names:
                yield " ".join(word + ("s" if word[-1:] in "aeiou" else "es") for word in fold(name).split())


def _split(names: str) -> tuple[list[str], list[str]]:
    """The parts of a list and the separators behind each; empty parts are left out."""
    parts, separators, start = [], [], 0
    for match in (*SEPARATOR.finditer(names), None):
        end = len(names) if match is None else match.start()
        if names[start:end].strip():
            parts.append(names[start:end].strip())
            separators.append(match.group() if match else "")
        elif separators and match:
            separators[-1] += match.group()
        start = end if match is None else match.end()
    return parts, separators


def _with_shared_noun(parts: Sequence[str]) -> Iterator[str]:
    """ "left and right kidney", or "left kidney and the right one", as "left kidney", "right kidney"."""
    before: list[str] = []
    for i, part in enumerate(parts):
        word = ONE.sub("", fold(part))
        shared = _nouns(parts[i + 1]) if i + 1 < len(parts) else []
        if not _is_part(word):
            before = _nouns(part) if len(_nouns(part)) < len(part.split()) else []
            yield part
        else:
            yield f"{part} {' '.join(shared)}" if shared else f"{word} {' '.join(before)}" if before else part


def _nouns(part: str) -> list[str]:
    """The words of a name that are none for a part."""
    return [word for word in part.split() if not _is_part(fold(word)) and fold(word) != "the"]


def _is_part(word: str) -> bool:
    return word in PART_WORDS or word in FOREIGN_PART_WORDS or word in SIDES
