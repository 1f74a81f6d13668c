"""The entities that the data sets name, and where each of them was annotated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.model.config import MimoConfig


@dataclass
class Vocabulary:
    """Entities in query order, and per set the names that its annotators looked for.

    Attributes:
        entities: names in the order of their mask queries.
        of_set: names by data set.
        annotated_regions: by name the body regions, in lower case, in which some set annotates it. In any other region it is
            absent for sure. A name without regions may be anywhere.
        annotated_modalities: by name the modalities, in lower case, in which some record marks it. A name without modalities
            may be in any.
    """

    entities: tuple[str, ...]
    of_set: dict[str, frozenset[str]]
    annotated_regions: dict[str, frozenset[str]]
    annotated_modalities: dict[str, frozenset[str]] = field(default_factory=dict)

    @staticmethod
    def of(
        datasets: Sequence[Dataset],
        known: tuple[str, ...] = (),
        known_regions: tuple[tuple[str, ...], ...] = (),
        known_modalities: tuple[tuple[str, ...], ...] = (),
    ) -> Vocabulary:
        """The vocabulary of some data sets.

        "Polyp" and "polyp" are one entity, which goes by the name that comes first.

        Args:
            known: entities of an earlier training; they keep their queries. New ones follow in order of appearance.
            known_regions: for each known entity the regions in which earlier training annotated it.
            known_modalities: for each known entity the modalities in which earlier training marked it; it stays unknown for
                those without.
        """
        names = {name.casefold(): name for name in reversed(known)}
        entities = list(known)
        of_set: dict[str, frozenset[str]] = {}
        regions_of = {name: {region.casefold() for region in regions} for name, regions in zip(known, known_regions)}
        for dataset in datasets:
            for name in dataset.class_names:
                if name.casefold() not in names:
                    names[name.casefold()] = name
                    entities.append(name)
            own = frozenset(names[name.casefold()] for name in dataset.class_names)
            of_set[dataset.name] = own
            regions = {record.region.casefold() for record in dataset.records}
            for name in own:
                regions_of.setdefault(name, set()).update(regions)
        earlier = dict(zip(known, known_modalities))
        modalities = {
            name: marked | frozenset(earlier.get(name, ()))
            for name, marked in _marked_modalities(datasets, names).items()
            if name not in known or earlier.get(name)
        }
        kept = {name: frozenset(values) for name, values in earlier.items() if values and name not in modalities}
        annotated = {name: frozenset(regions) for name, regions in regions_of.items()}
        return Vocabulary(tuple(entities), of_set, annotated, modalities | kept)

    @property
    def regions(self) -> tuple[tuple[str, ...], ...]:
        """Per entity its annotated regions, sorted: what a checkpoint stores as ``MimoConfig.entity_regions``."""
        return tuple(tuple(sorted(self.annotated_regions.get(name, ()))) for name in self.entities)

    @property
    def modalities(self) -> tuple[tuple[str, ...], ...]:
        """Per entity the modalities that show it, sorted: what a checkpoint stores as ``MimoConfig.entity_modalities``."""
        return tuple(tuple(sorted(self.annotated_modalities.get(name, ()))) for name in self.entities)

    @cached_property
    def index(self) -> dict[str, int]:
        """Position of each entity; its mask query is one more."""
        return {name: i for i, name in enumerate(self.entities)}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {name.casefold(): name for name in reversed(self.entities)}

    def classes(self, record: Record) -> dict[int, str]:
        """The classes of a record by the names of their entities."""
        return {i: self._names.get(name.casefold(), name) for i, name in record.classes.items()}

    def is_absent(self, record: Record, name: str) -> bool:
        """Whether an annotated image without the entity ``name`` is sure not to show it."""
        if name in self.classes(record).values():
            return False
        if name in self.of_set[record.set_name]:
            return True
        # An entity of an earlier training on data of unknown regions may be in any image.
        regions = self.annotated_regions.get(name)
        return bool(regions) and record.region.casefold() not in regions


def marked_modalities(datasets: Sequence[Dataset], config: MimoConfig) -> tuple[tuple[str, ...], ...]:
    """Per entity of a model the modalities in which the data marks it, and those that the model knows, sorted.

    Unlike :attr:`Vocabulary.modalities`, it takes the data for all that the model was trained on.
    """
    names = {name.casefold(): name for name in reversed(config.entities)}
    classes = {name.casefold(): name for dataset in datasets for name in dataset.class_names}
    marked = _marked_modalities(datasets, classes | names)
    known = config.entity_modalities or ((),) * len(config.entities)
    return tuple(tuple(sorted({*own, *marked.get(name, ())})) for name, own in zip(config.entities, known))


def _marked_modalities(datasets: Sequence[Dataset], names: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """By entity the modalities of the records that mark it; ``names`` gives the entity of a class name in lower case."""
    marked: dict[str, set[str]] = {}
    for record in (record for dataset in datasets for record in dataset.records):
        for name in record.classes.values():
            marked.setdefault(names[name.casefold()], set()).add(record.modality.casefold())
    return {name: frozenset(modalities) for name, modalities in marked.items()}
