"""Volumes with expert masks: the stored slices of each case of a data set, in order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mimo_runtime.data.dataset import Dataset, Record
from mimo_runtime.series.image_series import ImageSeries, open_image_series

#: The number of a slice: the last digits of a file's name.
_NUMBER = re.compile(r"(.*?)(\d+)$")


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices around the middle one of a structure.

    Args:
        name: of the structure.
        records: in order.
        masks: bool ``[H, W]`` of the structure in each.
        middle: index of the middle slice.
    """

    name: str
    records: tuple[Record, ...]
    masks: tuple[np.ndarray, ...]
    middle: int

    @property
    def set_name(self) -> str:
        """Of the data set."""
        return self.records[0].set_name

    def series(self) -> ImageSeries:
        """The slices as a series of files."""
        return open_image_series([record.image for record in self.records], modality=self.records[0].modality)


def stacks_of(
    datasets: Sequence[Dataset], split: str, limit: int, reach: int, strides: Mapping[str, int], known: Sequence[str]
) -> list[Stack]:
    """One stack of up to ``limit`` cases per set: of the structure that the model knows with the most pixels.

    Args:
        reach: slices on each side of the middle one.
        strides: by set: every so many stored slices form a volume, where slices of several times alternate.
    """
    stacks = []
    for data in datasets:
        groups: dict[tuple[str, str], list[tuple[int, Record]]] = {}
        for record in data.records:
            match = _NUMBER.match(record.image.stem)
            if record.split == split and match and record.mask is not None:
                groups.setdefault((record.case, match[1]), []).append((int(match[2]), record))
        of_set = 0
        for _, group in sorted(groups.items()):
            ordered = [record for _, record in sorted(group, key=lambda numbered: numbered[0])]
            stack = _stack(ordered[:: strides.get(data.name, 1)], reach, known)
            if stack is not None and of_set < limit:
                stacks.append(stack)
                of_set += 1
    return stacks


def _stack(records: Sequence[Record], reach: int, known: Sequence[str]) -> Stack | None:
    """None where the slices are fewer than three, differ in size, or show no structure in two of them."""
    masks: dict[str, list[np.ndarray]] = {}
    sizes = set()
    for index, record in enumerate(records):
        pixels, labels = record.load()
        sizes.add(labels.shape)
        for class_id, name in record.classes.items():
            of_name = masks.setdefault(name, [np.zeros(labels.shape, bool)] * index)
            of_name.append(record.whole_class(labels, class_id))
        for of_name in masks.values():
            of_name += [np.zeros(labels.shape, bool)] * (index + 1 - len(of_name))
    pixels_of = {name: sum(int(mask.sum()) for mask in of_name) for name, of_name in masks.items() if name in known}
    if len(sizes) != 1 or len(records) < 3 or not pixels_of:
        return None
    name = max(pixels_of, key=lambda name: pixels_of[name])
    present = [index for index, mask in enumerate(masks[name]) if mask.any()]
    if len(present) < 2:
        return None
    middle = present[len(present) // 2]
    first = max(0, middle - reach)
    part = slice(first, middle + reach + 1)
    return Stack(name, tuple(records[part]), tuple(masks[name][part]), middle - first)
