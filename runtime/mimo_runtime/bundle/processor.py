"""The processor that graphs of a bundle are compiled for: its name, and the instruction sets that choose kernels."""

from __future__ import annotations

from ..errors import BundleError
from ..hardware.host import KERNEL_FEATURES, cpu_features, cpu_name
from ..model.json_fields import abbreviate
from .schema import ProcessorData


def this_processor() -> ProcessorData:
    """The processor of this machine; without features where the system does not tell them."""
    features = cpu_features() or frozenset()
    return {"name": cpu_name(), "features": [name for name in KERNEL_FEATURES if name in features]}


def check_processor(built_for: ProcessorData, remedy: str) -> None:
    """Compare the processor that graphs are compiled for with the one of this machine.

    OpenVINO does not say which of its compiled graphs fit a processor: its own cache compares the name of the processor
    (``CACHING_PROPERTIES`` of the device CPU). A virtual machine may hide instruction sets, so these are compared, too.

    Raises:
        BundleError: another name, or an instruction set more or less.
    """
    here = this_processor()
    if here["name"] != built_for["name"]:
        what = f"the bundle was compiled for the processor {abbreviate(built_for['name'])}, this machine has {here['name']}"
        raise BundleError(what, remedy)
    if lacking := [name for name in built_for["features"] if name not in here["features"]]:
        what = f"the bundle was compiled for a processor with {abbreviate(lacking[0])}, which this one lacks"
        raise BundleError(what, remedy)
    if more := [name for name in here["features"] if name not in built_for["features"]]:
        raise BundleError(f"the bundle was compiled for a processor without {more[0]}, which this one has", remedy)
