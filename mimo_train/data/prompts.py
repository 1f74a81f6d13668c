"""Prompts about a view, as a user would write them, and the answers that follow from the masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from mimo_runtime.data.dataset import Record
from mimo_runtime.data.prompt_sampling import (
    instance_labels,
    instances,
    interior_point,
    is_many,
    jitter_box,
    negative_point,
    rough_mask,
)
from mimo_runtime.text.grammar import RELATIONS, Description, Phrase, describe
from mimo_runtime.text.observe import count_word, observe_phrase, relation_word
from mimo_runtime.text.questions import question
from mimo_runtime.text.synonyms import misspell, synonyms

from .augment import View
from .vocabulary import Vocabulary

#: A structure of fewer canvas pixels is too small for a prompt, and too large to be called absent.
MIN_PIXELS = 12
#: Share of the questions by name that use a synonym, and of those with a typing error.
SYNONYM_SHARE, TYPO_SHARE = 0.2, 0.08
#: How often a box or a rough mask refers to one instance of a class (one lesion of several). A point has no extent that
#: separates the instance from the whole class, so it always refers to the instance.
INSTANCE_SHARE = 0.9
#: Share of the references that go to a class with several instances where there is one: few images have such a class.
SEVERAL_SHARE = 0.5
#: Share of the questions about relative positions that name an absent structure.
ABSENT_RELATION_SHARE = 0.2
#: Kinds of prompts with a reference and their shares, for prompts that ``references`` converts.
REFERENCE_KINDS = {"box": 0.4, "named_box": 0.2, "point": 0.25, "rough": 0.1, "mixed": 0.05}


@dataclass
class Sample:
    """One prompt with its truth, in canvas pixels."""

    text: str
    answer: str  # "": no text is supervised
    mask: np.ndarray | None  # bool [S, S]; None = absent
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    points: list[tuple[float, float, int]] = field(default_factory=list)
    rough: np.ndarray | None = None
    group: int = -1
    text_names: bool = False
    #: The prompt has no single target, so query 0 draws nothing.
    several: bool = False


class PromptSampler:
    """Draws prompts for views of a record.

    Args:
        fits: whether a question is short enough for the model; longer ones are not sampled.
        references: share of the prompts without a reference (names, relations, "what do you see?") that become prompts with
            one, where the view shows a structure. Without it, half of four prompts about a view have a reference.
        synonyms: other words by class name in lower case, besides those of ``mimo_runtime.text.synonyms``.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        fits: Callable[[str], bool],
        references: float = 0.0,
        synonyms: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.vocabulary, self.fits, self.references, self.synonyms = vocabulary, fits, references, synonyms or {}
        self.index = vocabulary.index

    def draw(self, view: View, record: Record, count: int, rng: np.random.Generator) -> list[Sample]:
        """``count`` prompts about one view.

        Their kinds rotate from a random start: four prompts have one of each, other counts have the same shares on average.
        """
        classes = self._visible(view, record)
        kinds: list[str] = []
        while len(kinds) < count:
            cycle = [str(kind) for kind in self._kinds(len(classes), rng)]
            start = int(rng.integers(len(cycle)))
            kinds += (cycle[start:] + cycle[:start])[: count - len(kinds)]
        if self.references and classes:
            kinds = [self._with_reference(kind, rng) for kind in kinds]
        if any(0 < np.count_nonzero(view.labels == i) < MIN_PIXELS for i in record.classes):
            # A structure is too small to be named: "no finding" or "nothing below" would be untrue.
            kinds = [("text" if classes else "absent") if kind in ("all", "relation") else kind for kind in kinds]
        return [_METHODS[kind](self, view, record, classes, rng) for kind in kinds]

    def focus(self, source: View, record: Record, rng: np.random.Generator) -> tuple[int, np.ndarray] | None:
        """A class and the structure of it for a crop view; None in an image without any.

        Args:
            source: the whole image.
        """
        classes = self._visible(source, record)
        if not classes:
            return None
        class_id, _ = self._pick_one(source, classes, rng)
        return class_id, self._target(source, class_id, rng, INSTANCE_SHARE)[0]

    def draw_crop(self, view: View, record: Record, class_id: int, count: int, rng: np.random.Generator) -> list[Sample]:
        """``count`` prompts with a reference to the target of a crop view.

        They have no answers: place and size in a text refer to the whole image, which a crop view does not show.
        """
        classes = {class_id: self.vocabulary.classes(record)[class_id]}
        kinds = rng.choice(["box", "named_box", "point", "mixed", "rough"], count, p=[0.25, 0.15, 0.3, 0.15, 0.15])
        samples = [_METHODS[kind](self, view, record, classes, rng) for kind in kinds]
        for sample in samples:
            sample.answer = ""
        return samples

    def _visible(self, view: View, record: Record) -> dict[int, str]:
        """The classes with at least :data:`MIN_PIXELS` in the view."""
        classes = self.vocabulary.classes(record)
        return {i: name for i, name in classes.items() if np.count_nonzero(view.labels == i) >= MIN_PIXELS}

    @staticmethod
    def _kinds(count: int, rng: np.random.Generator) -> Iterator[str]:
        if not count:
            yield from ("absent", "all", "absent", "absent")
            return
        # About a fifth to a third of the questions by name ask for an absent structure.
        yield rng.choice(["point", "rough", "mixed"], p=[0.5, 0.35, 0.15])
        yield "text"
        yield rng.choice(["box", "named_box"], p=[0.6, 0.4])
        if count > 1:
            yield rng.choice(["absent", "all", "relation"], p=[0.4, 0.2, 0.4])
        else:
            yield rng.choice(["absent", "all", "text"], p=[0.5, 0.2, 0.3])

    def _with_reference(self, kind: str, rng: np.random.Generator) -> str:
        """The kind itself, or with probability ``references`` a kind with a reference."""
        if kind in REFERENCE_KINDS or rng.random() >= self.references:
            return kind
        return str(rng.choice(list(REFERENCE_KINDS), p=list(REFERENCE_KINDS.values())))

    # -- kinds of prompts --------------------------------------------------------------------------------------------

    def _box(
        self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator, named: bool = False
    ) -> Sample:
        name, mask, count = self._referred(view, classes, rng, INSTANCE_SHARE)
        sample = self._present(view, record, name, mask, count, self._ask(name, rng) if named else self._open(rng), named)
        sample.boxes = [jitter_box(mask, rng, float(rng.choice([0.05, 0.1, 0.2])))]
        return sample

    def _named_box(self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator) -> Sample:
        return self._box(view, record, classes, rng, named=True)

    def _point(self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator) -> Sample:
        name, mask, count = self._referred(view, classes, rng, 1.0)
        named = rng.random() < 0.3
        sample = self._present(view, record, name, mask, count, self._ask(name, rng) if named else self._open(rng), named)
        for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
            x, y = interior_point(mask, rng)
            sample.points.append((x + 0.5, y + 0.5, 1))
        if rng.random() < 0.25:
            outside = negative_point(mask[: view.height, : view.width], rng)
            if outside is not None:
                sample.points.append((outside[0] + 0.5, outside[1] + 0.5, 0))
        return sample

    def _rough(self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator) -> Sample:
        name, mask, count = self._referred(view, classes, rng, INSTANCE_SHARE)
        named = rng.random() < 0.3
        sample = self._present(view, record, name, mask, count, self._ask(name, rng) if named else self._open(rng), named)
        sample.rough = rough_mask(mask[: view.height, : view.width], rng)
        return sample

    def _mixed(self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator) -> Sample:
        sample = self._point(view, record, classes, rng)
        sample.boxes = [jitter_box(sample.mask, rng, 0.1)]
        if rng.random() < 0.3:
            sample.rough = rough_mask(sample.mask[: view.height, : view.width], rng)
        return sample

    def _text(self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator) -> Sample:
        class_id, name = _pick(classes, rng)
        mask, count = self._target(view, class_id, rng, instance=0.0)
        return self._present(view, record, name, mask, count, self._ask(name, rng), True)

    def _absent(self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator) -> Sample:
        own = sorted(n for n in self.vocabulary.of_set[record.set_name] if self.vocabulary.is_absent(record, n))
        # A name of the same set is the harder question, so it is sampled more often.
        others = [n for n in self.vocabulary.entities if n not in own and self.vocabulary.is_absent(record, n)]
        pool = own if own and (not others or rng.random() < 0.7) else others
        if not pool:
            return self._all(view, record, classes, rng)
        name = pool[int(rng.integers(len(pool)))]
        answer = describe(Description(record.modality, record.region, absent=name))
        return Sample(self._ask(name, rng), answer, None, text_names=True)

    def _all(self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator) -> Sample:
        area = view.labels[: view.height, : view.width]
        phrases = []
        for class_id, name in sorted(classes.items(), key=lambda item: self.index[item[1]]):
            if len(classes) > 3:
                many = len(instance_labels(view.labels, class_id, view.instances)[1])
                phrases.append(Phrase(name, 1 + self.index[name], count_word(many) if many > 1 else ""))
            else:
                count = self._count(view, class_id)
                phrases.append(observe_phrase(area == class_id, name, 1 + self.index[name], count))
        answer = describe(Description(record.modality, record.region, tuple(p for p in phrases if p)))
        return Sample(question("describe", rng=rng), answer, None, several=True)

    def _relation(self, view: View, record: Record, classes: dict[int, str], rng: np.random.Generator) -> Sample:
        """The relative position of two structures, or the structures on one side of another."""
        if len(classes) < 2:
            return self._text(view, record, classes, rng)
        area = view.labels[: view.height, : view.width]
        names = {name: area == i for i, name in classes.items()}
        name, other = (str(n) for n in rng.choice(sorted(names), 2, replace=False))
        missing = sorted(n for n in self.vocabulary.of_set[record.set_name] if self.vocabulary.is_absent(record, n))
        if missing and rng.random() < ABSENT_RELATION_SHARE:
            absent = missing[int(rng.integers(len(missing)))]
            kind = str(rng.choice(["relation", "neighbours"]))
            if kind == "neighbours":
                text = question(kind, None, rng, absent, str(rng.choice(RELATIONS)))
            else:
                text = question(kind, *((absent, rng, other) if rng.random() < 0.5 else (other, rng, absent)))
            answer = describe(Description(record.modality, record.region, absent=absent))
            return Sample(text, answer, None, several=True) if self.fits(text) else self._text(view, record, classes, rng)
        reference = Phrase(other, 1 + self.index[other])
        if rng.random() < 0.6:
            word, related = relation_word(names[name], names[other]), [name]
            text = question("relation", name, rng, other)
        else:
            word = str(rng.choice(RELATIONS))
            related = [n for n in names if n != other and relation_word(names[n], names[other]) == word]
            text = question("neighbours", None, rng, other, word)
        if not self.fits(text):
            return self._text(view, record, classes, rng)
        phrases = tuple(Phrase(n, 1 + self.index[n]) for n in sorted(related, key=self.index.__getitem__))
        answer = describe(Description(record.modality, record.region, phrases, relation=word, other=reference))
        return Sample(text, answer, None, several=True)

    # -- parts -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _open(rng: np.random.Generator) -> str:
        return "" if rng.random() < 0.5 else question("what", rng=rng)

    def _ask(self, name: str, rng: np.random.Generator) -> str:
        kind = "name" if rng.random() < 0.4 else str(rng.choice(["where", "segment", "presence", "show", "count"]))
        others = (*self.synonyms.get(name.casefold(), ()), *synonyms(name))
        word = others[int(rng.integers(len(others)))] if others and rng.random() < SYNONYM_SHARE else name
        text = question(kind, word, rng)
        text = misspell(text, rng) if rng.random() < TYPO_SHARE else text
        return text if self.fits(text) else name

    @staticmethod
    def _count(view: View, class_id: int) -> int:
        """The instances of a class by their map; without one, the connected components of its mask."""
        return len(instance_labels(view.labels, class_id, view.instances)[1])

    @staticmethod
    def _pick_one(view: View, classes: dict[int, str], rng: np.random.Generator) -> tuple[int, str]:
        """The class of a reference: more often one with several instances, where the reference selects one."""
        if len(classes) > 1 and rng.random() < SEVERAL_SHARE:
            several = {i: n for i, n in classes.items() if len(instance_labels(view.labels, i, view.instances)[1]) > 1}
            return _pick(several or classes, rng)
        return _pick(classes, rng)

    def _referred(
        self, view: View, classes: dict[int, str], rng: np.random.Generator, instance: float
    ) -> tuple[str, np.ndarray, int | None]:
        """The target of a reference: name, mask, and its number of instances where that is known."""
        class_id, name = self._pick_one(view, classes, rng)
        return name, *(self._target(view, class_id, rng, instance) if view.target is None else (view.target, 1))

    @classmethod
    def _target(cls, view: View, class_id: int, rng: np.random.Generator, instance: float) -> tuple[np.ndarray, int]:
        """The class's whole mask, or one instance of it: always where there are many, else with this probability.

        Returns:
            the mask, and its number of instances.
        """
        whole, count = view.labels == class_id, cls._count(view, class_id)
        if instance == 0.0:
            return whole, count
        parts = [p for p in instances(view.labels, class_id, view.instances) if np.count_nonzero(p) >= MIN_PIXELS]
        if len(parts) > 1 and (is_many(np.ones(len(parts))) or rng.random() < instance):
            return parts[int(rng.integers(len(parts)))], 1
        return whole, count

    def _present(self, view: View, record: Record, name: str, mask: np.ndarray, count: int, text: str, named: bool) -> Sample:
        phrase = observe_phrase(mask[: view.height, : view.width], name, 0, count)
        answer = describe(Description(record.modality, record.region, (phrase,) if phrase else ()))
        return Sample(text, answer, mask, group=self.index[name], text_names=named)


def _pick(classes: dict[int, str], rng: np.random.Generator) -> tuple[int, str]:
    keys = sorted(classes)
    key = keys[int(rng.integers(len(keys)))]
    return key, classes[key]


#: What draws a prompt of each kind.
_METHODS: dict[str, Callable[[PromptSampler, View, Record, dict[int, str], np.random.Generator], Sample]] = {
    "box": PromptSampler._box,
    "named_box": PromptSampler._named_box,
    "point": PromptSampler._point,
    "rough": PromptSampler._rough,
    "mixed": PromptSampler._mixed,
    "text": PromptSampler._text,
    "absent": PromptSampler._absent,
    "all": PromptSampler._all,
    "relation": PromptSampler._relation,
}
