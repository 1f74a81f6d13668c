"""The commands ``mimo-bench throughput``, ``memory``, ``cold-start`` and ``energy``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from mimo_runtime.cli.app import Command
from mimo_runtime.cli.progress import progress_bar
from mimo_runtime.errors import EngineError, RequestError, VerificationError

from .options import QUIET_WITHIN, request_options
from .output import check_writable, deliver_result, json_option

if TYPE_CHECKING:
    from mimo_runtime.bundle.archive import Bundle

    from ..request import Request

Function = TypeVar("Function", bound=Callable[..., object])
_KINDS = ["first_ask", "second_ask", "mask_only", "second_ask_mask_only", "text_only"]


def system_options(command: Function) -> Function:
    """What the commands of this file share: the bundle, the request, waiting for a quiet machine, and ``--json``."""
    options = (
        click.argument("bundle", type=click.Path(path_type=Path)),
        request_options,
        click.option("--quiet-within", default=0.0, type=click.FloatRange(0, 3600), help=QUIET_WITHIN),
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _kind_option(default: str) -> Callable[[Function], Function]:
    text = "Kind of request: of a new image, or of one that is known (second)."
    return click.option("--kind", default=default, show_default=True, type=click.Choice(_KINDS), help=text)


@click.command(cls=Command)
@_kind_option("first_ask")
@click.option("--callers", default="1,2,4,8", show_default=True, help="Numbers of threads that ask at once.")
@click.option("--asks", default=24, show_default=True, type=click.IntRange(1), help="Answers per block.")
@click.option("--blocks", default=5, show_default=True, type=click.IntRange(1), help="Blocks per number of callers.")
@click.option("--max-callers", type=click.IntRange(1), help="As Mimo.load takes it: the others wait. Default: no limit.")
@system_options
def throughput(
    bundle: Path, kind: str, callers: str, asks: int, blocks: int, max_callers: int | None, threads: int | None,
    quiet_within: float, json_path: str | None, **request: object,
) -> None:  # fmt: skip
    """Answers per second of BUNDLE in one process for several numbers of callers. Every answer must equal the serial one."""
    from mimo_runtime.pipeline import Mimo

    from ..system.tables import throughput_table
    from ..system.throughput import measure_throughput

    numbers = _numbers(callers)
    opened, pool = _begin(bundle, quiet_within, json_path, request)
    # No image stays encoded: every ask about a new image encodes.
    loaded = Mimo.load(bundle, threads=threads, cache_images=0, max_callers=max_callers, max_waiting=max(numbers))
    with loaded as mimo, progress_bar() as progress:
        result = measure_throughput(
            mimo, opened, pool, kind=kind, callers=numbers, asks=asks, blocks=blocks, threads=threads,
            max_callers=max_callers, progress=progress,
        )  # fmt: skip
    deliver_result(throughput_table(result), result, json_path)
    different = result.details["answers_different"]
    if different:
        raise VerificationError(
            f"{different} answers differ from the serial ones", "Report it with the versions of the engines"
        )


@click.command(cls=Command)
@_kind_option("first_ask")
@click.option("--count", default=10_000, show_default=True, type=click.IntRange(40), help="Number of asks.")
@click.option("--seconds", default=3600.0, show_default=True, type=click.FloatRange(1), help="End earlier, after this time.")
@system_options
def memory(
    bundle: Path, kind: str, count: int, seconds: float, threads: int | None, quiet_within: float, json_path: str | None,
    **request: object,
) -> None:  # fmt: skip
    """Peak and growth of the memory of a process that asks BUNDLE thousands of times, and the tail of its times."""
    from ..system.memory import measure_memory
    from ..system.tables import memory_table

    opened, pool = _begin(bundle, quiet_within, json_path, request)
    with progress_bar() as progress:
        result = measure_memory(opened, pool, kind=kind, count=count, seconds=seconds, threads=threads, progress=progress)
    deliver_result(memory_table(result), result, json_path)


@click.command(cls=Command)
@click.option("--repeats", default=7, show_default=True, type=click.IntRange(1), help="Processes that are started.")
@click.option("--evict", is_flag=True, help="Remove the bundle from the page cache before each start.")
@system_options
def cold_start(
    bundle: Path, repeats: int, evict: bool, threads: int | None, quiet_within: float, json_path: str | None,
    **request: object,
) -> None:  # fmt: skip
    """Time from the start of a process to the first mask of BUNDLE: interpreter, import, load, first encode, first mask."""
    from ..system.cold_start import measure_cold_start
    from ..system.tables import cold_start_table

    opened, pool = _begin(bundle, quiet_within, json_path, request, images=1)
    with progress_bar() as progress:
        result = measure_cold_start(opened, pool[0], repeats=repeats, evict=evict, threads=threads, progress=progress)
    deliver_result(cold_start_table(result), result, json_path)


@click.command(cls=Command)
@click.option(
    "--kind", "kinds", multiple=True, default=("first_ask", "second_ask_mask_only"), show_default=True,
    type=click.Choice(_KINDS), help="Kind of request. Repeatable.",
)  # fmt: skip
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(0.05), help="Seconds of asking per kind.")
@click.option("--idle-seconds", default=5.0, show_default=True, type=click.FloatRange(0.05), help="Seconds of idle power.")
@system_options
def energy(
    bundle: Path, kinds: tuple[str, ...], seconds: float, idle_seconds: float, threads: int | None, quiet_within: float,
    json_path: str | None, **request: object,
) -> None:  # fmt: skip
    """Joules per answer of BUNDLE: RAPL, the INA3221 sensors of a Jetson, tegrastats, NVML.

    Without a sensor the exit code is 1.
    """
    from ..models import open_model
    from ..system.energy import measure_energy
    from ..system.sensors import find_sensors
    from ..system.tables import energy_table

    opened, pool = _begin(bundle, quiet_within, json_path, request)
    with find_sensors() as available, open_model(bundle, threads) as mimo, progress_bar() as progress:
        result = measure_energy(
            mimo,
            opened,
            pool,
            available,
            kinds=kinds,
            seconds=seconds,
            idle_seconds=idle_seconds,
            threads=threads,
            progress=progress,
        )
    deliver_result(energy_table(result), result, json_path)
    if not available.sensors:
        raise EngineError(
            "this machine has no energy sensor that can be read", "Run it on a Jetson, with an NVIDIA GPU, or as root"
        )


def _begin(
    bundle: Path, quiet_within: float, json_path: str | None, request: dict[str, object], images: int | None = None
) -> tuple[Bundle, list[Request]]:
    """Check the options, make the requests, and wait for a quiet machine."""
    from mimo_runtime.bundle.archive import Bundle

    from ..report.machine import wait_until_quiet
    from ..system.pool import IMAGES, make_pool

    check_writable(json_path)
    opened = Bundle.open(bundle)
    pool = make_pool(opened, count=images or IMAGES, **request)  # type: ignore[arg-type]
    wait_until_quiet(quiet_within)
    return opened, pool


def _numbers(callers: str) -> list[int]:
    parts = [part.strip() for part in callers.split(",") if part.strip()]
    if not parts or not all(part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise RequestError(f"--callers {callers!r} is no list of numbers from 1 to 1024", "Use numbers such as 1,2,4,8")
    return [int(part) for part in parts]
