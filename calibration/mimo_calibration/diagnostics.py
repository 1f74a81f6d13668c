"""Warnings about a calibration: before the work begins, and about its result.

Both ``mimo-calibrate run`` and ``mimo-export build`` print them on standard error, beginning with "warning: ".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # a command line is checked before anything slow is imported
    from mimo_runtime.model.config import MimoConfig

    from .quantize import CalibrationFacts, QuantizationRequest


def print_warning(message: str) -> None:
    """Print a warning on standard error."""
    click.echo(f"warning: {message}", err=True)


def explicit_parameters(*names: str) -> set[str]:
    """Parameters of the running command that are given explicitly, not left at their default."""
    context, default = click.get_current_context(), click.core.ParameterSource.DEFAULT
    return {name for name in names if context.get_parameter_source(name) is not default}


def warnings_of_counts(request: QuantizationRequest, explicit: Collection[str]) -> Iterator[str]:
    """Fewer images than requested.

    Args:
        explicit: options that are given explicitly; a default that is not reached is no warning.
    """
    calibration, gate = request.split.calibration, request.split.gate
    for option, requested, images, split in (
        ("--calibration-images", request.images, calibration, "train"), ("--gate-images", request.gate_images, gate, "val")
    ):  # fmt: skip
        available = len(images.items)
        if option in explicit and available < requested:
            less = " besides those of the search" if split == "val" else ""
            yield f"{option} is {requested}, but the data has only {available} in split '{split}'{less}: these are used"


def warnings_before(request: QuantizationRequest, config: MimoConfig, engines: Sequence[str]) -> Iterator[str]:
    """Modalities that the model does not know, and engines that are not installed.

    Args:
        engines: that the target may use.
    """
    from .search.settings import Settings

    split = request.split
    for what, images in (("calibrates", (split.calibration,)), ("decides", (split.search, split.gate))):
        modalities = set().union(*(i.modalities for i in images))
        unknown = modalities - set(config.modalities) if config.modalities else set()
        if unknown:
            yield f"{what} on modalities that the training data did not have: {', '.join(sorted(unknown))}"
    if missing := [name for name in engines if name not in Settings.available(engines)]:
        yield f"not installed, so not tried: {', '.join(missing)}"


def warnings_after(facts: CalibrationFacts, precision: str) -> Iterator[str]:
    """Graphs that ship outside the tolerance.

    Args:
        facts: ``calibration`` of the manifest.
    """
    if facts["forced"]:
        yield f"not every graph is in {precision} within the tolerance; ships because of --force"
