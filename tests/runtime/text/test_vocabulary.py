"""Names that mean the same structure, and names that are wider, narrower or ambiguous."""

from __future__ import annotations

import pytest

from mimo_runtime.text.names import fold, is_one_edit, key_of
from mimo_runtime.text.synonyms import ABBREVIATIONS, ACCEPTED, NOT_THE_SAME, SYNONYMS
from mimo_runtime.text.translations import LANGUAGES, TRANSLATIONS
from mimo_runtime.text.vocabulary import Vocabulary

ENTITIES = tuple(SYNONYMS) + ("retinal vessel",)
VOCABULARY = Vocabulary(ENTITIES)


@pytest.mark.parametrize("entity", ENTITIES)
def test_every_synonym_means_its_structure(entity: str) -> None:
    for table in (SYNONYMS, ACCEPTED, ABBREVIATIONS):
        for name in table.get(entity, ()):
            expected = () if name in NOT_THE_SAME else (entity,)
            assert VOCABULARY.resolve(name) == VOCABULARY.resolve(name.upper()) == expected, name


@pytest.mark.parametrize("entity", ENTITIES)
def test_every_translation_means_its_structure(entity: str) -> None:
    assert tuple(TRANSLATIONS[entity]) == LANGUAGES
    for names in TRANSLATIONS[entity].values():
        for name in names:
            assert VOCABULARY.resolve(name) == (entity,), name


def test_the_name_of_a_pair_means_both_where_the_model_has_both() -> None:
    assert VOCABULARY.resolve("kidneys") == ("left kidney", "right kidney")
    assert VOCABULARY.resolve("肾脏") == VOCABULARY.resolve("Nieren") == ("left kidney", "right kidney")
    assert Vocabulary(("left kidney", "liver")).resolve("kidneys") == ()


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("lesion", ("brain lesion", "breast lesion", "liver lesion")),
        ("ventricle", ("left ventricle", "ventricles")),
        ("vena cava", ("inferior vena cava",)),
        ("vertebra", ("spine",)),
        ("large polyp", ("polyp",)),
        ("fracture", ()),
        ("small nodule", ("lung nodule",)),
        ("kidney stone", ("kidney cyst", "left kidney", "right kidney")),
        ("right fracture", ()),
    ],
)
def test_a_wider_or_narrower_name_is_unknown_and_has_candidates(name: str, candidates: tuple[str, ...]) -> None:
    assert VOCABULARY.resolve(name) == () and VOCABULARY.candidates(name) == candidates


def test_the_parts_of_a_list_do_not_make_another_name() -> None:
    lungs = ("left lung", "right lung")
    assert VOCABULARY.split("heart, lungs, nodule") == [("heart", ("heart",)), ("lungs", lungs), ("nodule", ())]
    assert VOCABULARY.split("lungs and nodule") == [("lungs", lungs), ("nodule", ())]
    assert VOCABULARY.split("kidney, left") == [("kidney, left", ("left kidney",))]
    assert VOCABULARY.split("portal and splenic vein")[0][1] == ("portal and splenic vein",)


@pytest.mark.parametrize(
    ("typo", "entity"), [("spleeen", "spleen"), ("livr", "liver"), ("polyyp", "polyp"), ("stomahc", "stomach")]
)
def test_a_typing_error_is_corrected(typo: str, entity: str) -> None:
    assert VOCABULARY.resolve(typo) == (entity,)


@pytest.mark.parametrize(
    "word", ["lever", "river", "heat", "cist", "ureter", "legion", "interior vena cava", "aorto", "lift kidney"]
)
def test_another_word_is_no_typing_error(word: str) -> None:
    assert VOCABULARY.resolve(word) == ()


def test_a_model_with_names_of_its_own_is_understood() -> None:
    vocabulary = Vocabulary(("Optic Disc", "left widget", "right widget", "肿瘤", "gas in gut"))
    assert vocabulary.resolve("optic discs") == ("Optic Disc",)
    assert vocabulary.resolve("both widgets") == ("left widget", "right widget")
    assert vocabulary.resolve("肿瘤") == ("肿瘤",) and vocabulary.resolve("gut gas") == ("gas in gut",)
    assert Vocabulary(()).resolve("liver") == ()


def test_names_are_compared_without_case_accents_articles_order_and_number() -> None:
    assert key_of("The Kidney, LEFT") == key_of("left kidneys") == ("kidney", "left")
    assert fold("Œsophage — Größe") == "oesophage grosse"
    assert key_of("tumours of the brain") == key_of("brain tumor")


def test_one_edit_is_a_letter_more_less_or_other_or_two_swapped() -> None:
    assert all(is_one_edit("spleen", other) for other in ("splen", "spleeen", "spleem", "slpeen", "xspleen"))
    assert not any(is_one_edit("spleen", other) for other in ("spleen", "spln", "selpen", "nspleem"))
