"""Entities of several data sets, and where they are absent for sure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from views import VOCABULARY, fits, record

from mimo_runtime.data.dataset import Dataset, read_datasets
from mimo_train.data.augment import View
from mimo_train.data.prompts import PromptSampler
from mimo_train.data.vocabulary import Vocabulary


def test_a_name_of_the_same_region_is_not_absent_in_another_set():
    other = record(set_name="colon", region="abdomen", classes={})
    assert VOCABULARY.is_absent(other, "polyp") and not VOCABULARY.is_absent(other, "liver")
    assert VOCABULARY.is_absent(record(), "polyp") and not VOCABULARY.is_absent(record(), "liver")
    assert VOCABULARY.is_absent(record(region="Abdomen"), "polyp") and not VOCABULARY.is_absent(other, "liver")
    assert not VOCABULARY.is_absent(record(set_name="colon", region="Abdomen", classes={}), "liver")


def test_vocabulary_keeps_the_queries_of_known_entities(phantoms):
    vocabulary = Vocabulary.of(read_datasets(phantoms), known=("polyp", "liver"))
    assert vocabulary.entities[:2] == ("polyp", "liver") and len(set(vocabulary.entities)) == len(vocabulary.entities)


@pytest.fixture
def liver_set() -> list[Dataset]:
    """Own data that names one organ, and writes it and its region in another case than a checkpoint does."""
    return [Dataset("mine", Path("mine"), (record(set_name="mine", region="Abdomen", classes={1: "Liver"}),))]


def test_fine_tuning_calls_nothing_absent_that_was_not_annotated(liver_set):
    """Own liver images show spleens without annotation: the answer must not be "no spleen is visible"."""
    mine = liver_set[0].records[0]
    known, regions = ("spleen", "liver", "polyp"), (("abdomen",), ("abdomen",), ("colon",))
    vocabulary = Vocabulary.of(liver_set, known, regions)
    assert vocabulary.entities == known and vocabulary.classes(mine) == {1: "liver"}
    assert (
        not vocabulary.is_absent(mine, "spleen")
        and vocabulary.is_absent(mine, "polyp")
        and not vocabulary.is_absent(mine, "liver")
    )
    assert vocabulary.regions == regions
    # Without regions (a checkpoint that does not store them) nothing is absent for sure.
    assert not any(Vocabulary.of(liver_set, known).is_absent(mine, name) for name in known)


def test_modalities_are_those_of_the_images_that_show_the_entity(liver_set):
    assert Vocabulary.of(liver_set).modalities == (("ct",),)
    known = ("liver", "spleen", "polyp")
    grown = Vocabulary.of(liver_set, known, known_modalities=(("mri",), ("ct",), ()))
    assert grown.modalities == (("ct", "mri"), ("ct",), ())
    # An earlier training that stores none leaves them unknown: it may have seen others.
    assert Vocabulary.of(liver_set, known).modalities == ((), (), ())


def test_one_name_in_two_spellings_is_one_entity(liver_set):
    vocabulary = Vocabulary.of(liver_set)
    assert vocabulary.entities == ("Liver",) and vocabulary.regions == (("abdomen",),)
    both = Vocabulary.of(liver_set, ("LIVER", "spleen"), (("abdomen",), ("abdomen",)))
    assert both.entities == ("LIVER", "spleen") and both.of_set == {"mine": frozenset({"LIVER"})}
    view = View(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), np.int32), 64, 64)
    for sample in PromptSampler(both, fits).draw(view, liver_set[0].records[0], 8, np.random.default_rng(0)):
        assert sample.mask is not None or sample.several
