"""What a person should know about a calibration although it is no error: before the work begins, and about what ships.

Both ``mimo-calibrate run`` and ``mimo-export build`` print it on standard error, beginning with "warning: ".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # a command line is read, and refused, before anything slow is imported
    from mimo_runtime.model.config import MimoConfig

    from .quantize import QuantizationRequest


def warn(told: str) -> None:
    """Print a warning."""
    click.echo(f"warning: {told}", err=True)


def given(*names: str) -> set[str]:
    """Those parameters of the running command that were given explicitly, rather than left at their default."""
    context, default = click.get_current_context(), click.core.ParameterSource.DEFAULT
    return {name for name in names if context.get_parameter_source(name) is not default}


def warnings_of_counts(request: QuantizationRequest, explicit: Collection[str]) -> Iterator[str]:
    """Fewer images than were asked for.

    Args:
        explicit: options that were given; nobody misses what is a default.
    """
    _, calibration, _, gate = request.chosen
    for option, asked, images, split in (
        ("--calibration-images", request.images, calibration, "train"), ("--gate-images", request.gate_images, gate, "val")
    ):  # fmt: skip
        there = len(images.items)
        if option in explicit and there < asked:
            less = " besides those of the search" if split == "val" else ""
            yield f"{option} is {asked}, but the data has only {there} in split '{split}'{less}: these are used"


def warnings_before(request: QuantizationRequest, config: MimoConfig, engines: Sequence[str]) -> Iterator[str]:
    """What is known as soon as the model's configuration is: images that it cannot know, and engines that are not here.

    Args:
        engines: that the target may use.
    """
    from .search.pipeline import Settings

    _, calibration, search, gate = request.chosen
    for what, images in (("calibrates", (calibration,)), ("decides", (search, gate))):
        unseen = set().union(*(i.modalities for i in images)) - set(config.modalities) if config.modalities else set()
        if unseen:
            yield f"{what} on modalities that the model never saw in training: {', '.join(sorted(unseen))}"
    if missing := [name for name in engines if name not in Settings.available(engines)]:
        yield f"not installed, so not tried: {', '.join(missing)}"


def warnings_after(facts: Mapping[str, Any], precision: str) -> Iterator[str]:
    """What about the outcome must not be overlooked.

    Args:
        facts: the manifest's ``calibration``.
    """
    if facts["forced"]:
        yield f"not every graph is in {precision} within the tolerance; ships nevertheless, as --force asked for"
