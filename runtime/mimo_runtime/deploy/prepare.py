"""Compile a bundle on the device that will run it: compile every graph, write the manifest, verify the result.

Of a portable bundle, TensorRT compiles all graphs. Of a bundle for a CPU, OpenVINO compiles its own, which then load without
being compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..bundle.archive import Bundle
from ..bundle.manifest import write_manifest
from ..bundle.placement import built_for
from ..bundle.signature import KeyFile
from ..bundle.writer import bundle_place
from ..compiler import compile_bundle, cpu_graphs
from ..errors import RequestError, VerificationError
from ..hardware import host
from ..hardware.nvidia import find_gpus
from ..loading import required_mb
from ..utils.progress import Progress, silent

if TYPE_CHECKING:
    from .verify import VerifyReport


class PreparedGraph(TypedDict):
    delivered: dict[str, int]
    bytes: int
    seconds: float


class PrepareReport(TypedDict):
    """``mimo-run prepare --json``."""

    bundle: str
    target: str
    built_with: str | None
    compute_capability: str | None
    #: The processor that graphs of a CPU bundle are compiled for; None for a GPU.
    processor: str | None
    timing_cache: str
    #: Those that were compiled.
    graphs: dict[str, PreparedGraph]
    verified: VerifyReport | None
    #: Why the golden samples were not run; None if they were.
    not_verified: str | None
    seconds: float


@dataclass(frozen=True)
class Prepared:
    """The result."""

    path: Path
    #: As ``mimo-run prepare --json`` prints it.
    report: PrepareReport = field(repr=False)


def prepare(
    bundle: str | Path,
    output: str | Path,
    *,
    force: bool = False,
    timing_cache: Path | None = None,
    trust: KeyFile | None = None,
    progress: Progress = silent,
    announce: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Compile the graphs of a bundle for this machine, or leave nothing.

    Args:
        bundle: a folder or ``.mimo`` file, of ``mimo-export build --portable`` or with graphs on OpenVINO; output: one or the
            other, by its name.
        force: replace an earlier bundle at ``output``.
        timing_cache: a folder for measured kernel times, which make the next run faster. Only TensorRT has them.
        trust: a PEM file with the public key that must have signed the bundle. The result is unsigned.
        progress: called before and after each graph, and with each sample that is verified.
        announce: called once with one line, the memory that compiling needs, before the work starts.

    Raises:
        BundleError: the bundle is damaged, for another machine, or not signed by ``trust``.
        RequestError: it has nothing to compile, the compiler is not installed, or the output cannot be written.
        EngineError: no GPU where one is needed, too little memory, or the compiler failed.
        VerificationError: the compiled bundle does not reproduce its golden samples.
            After any of these there is nothing at ``output``, or what was there before.
    """
    started = time.monotonic()
    bundle, output = Path(bundle), Path(output)
    opened = Bundle.open(bundle, this_machine=False, trust=trust)
    manifest = opened.manifest
    _check_request(opened, output, timing_cache)
    if manifest.portable:
        needed = compile_bundle.check(manifest.data["graphs"], timing_cache)
    else:
        manifest.check_machine()
        needed = required_mb(opened)
    free = host.memory_mb()
    memory = f"needs up to {needed} MB of memory" + (f", {free[1]} MB are free" if free else "")
    with bundle_place(output, force) as folder:
        announce(memory)
        for name in manifest.data["files"]:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(opened.bytes(name))
        compiled = _compile(opened, folder, timing_cache, progress)
        # Last: without a manifest nothing loads the folder, however this process ends.
        write_manifest(folder, {**manifest.data, "graphs": compiled.graphs, "compatibility": compiled.compatibility})
        verified, reason = check_answers(folder, progress)
    report = _report(output, manifest.target, compiled)
    report |= {"verified": verified, "not_verified": reason, "seconds": round(time.monotonic() - started, 2)}
    return Prepared(output, report)


def _compile(bundle: Bundle, folder: Path, timing_cache: Path | None, progress: Progress) -> compile_bundle.CompiledGraphs:
    manifest = bundle.manifest
    if not manifest.portable:
        return cpu_graphs.compile_graphs(bundle, folder, progress)
    specs = {name: entry.spec for name, entry in manifest.graphs.items()}
    graphs, keys = manifest.data["graphs"], manifest.data["compatibility"]
    return compile_bundle.compile_graphs(
        graphs, keys, specs, bundle.bytes, folder, timing_cache=timing_cache, progress=progress
    )


def _report(output: Path, target: str, compiled: compile_bundle.CompiledGraphs) -> PrepareReport:
    """What was compiled; nothing is verified yet."""
    keys = compiled.compatibility
    engine, processor = compiled.graphs[next(iter(compiled.seconds))]["engine"], keys.get("processor")
    return {
        "bundle": str(output), "target": target, "built_with": keys["engines"][engine]["built_with"],
        "compute_capability": keys["compute_capability"], "processor": processor and processor["name"],
        "timing_cache": compiled.timing_cache,
        "graphs": {
            name: {
                "delivered": compiled.graphs[name]["delivered"], "bytes": compiled.graphs[name]["bytes"], "seconds": seconds,
            }
            for name, seconds in compiled.seconds.items()
        },
        "verified": None, "not_verified": None, "seconds": 0.0,
    }  # fmt: skip


def _check_request(bundle: Bundle, output: Path, timing_cache: Path | None) -> None:
    """Refuse what would do nothing or destroy its input.

    Raises:
        RequestError: the bundle has nothing to compile, ``output`` is the bundle, or the timing cache has no effect.
    """
    manifest = bundle.manifest
    if manifest.prepared:
        problem = f"bundle {bundle.path} is compiled for one processor already"
        raise RequestError(problem, "Name the bundle that it was prepared from")
    if not manifest.portable and not cpu_graphs.compiled_here(bundle):
        problem = f"bundle {bundle.path} has nothing to prepare: its graphs are what their engines read"
        raise RequestError(problem, f"Use it as it is: mimo-run verify {bundle.path}")
    if output.resolve() == bundle.path.resolve():
        raise RequestError(f"-o {output} is the bundle itself", "Name another place: a device of another kind may need it")
    if timing_cache is not None and all(entry.engine != "tensorrt" for entry in manifest.graphs.values()):
        raise RequestError(f"--timing-cache has no effect with {manifest.target}, which measures nothing", "Leave it out")


def check_answers(folder: Path, progress: Progress) -> tuple[VerifyReport | None, str | None]:
    """Repeat the golden samples of a compiled bundle through its engines.

    Returns:
        what was measured, and None; of plans without a GPU None, and why nothing was, in words.

    Raises:
        BundleError: it does not open, or its plans do not fit this GPU.
        EngineError: a plan does not load. VerificationError: a sample differs.
    """
    opened = Bundle.open(folder)
    if built_for(opened.manifest) != "cpu":
        gpus = find_gpus()
        if not gpus.usable:
            return None, f"not verified: {gpus.problem}, and plans run on nothing else"
    from ..pipeline import Mimo
    from .verify import verify

    with Mimo.load(opened) as mimo:
        report = verify(mimo, opened, lambda done, total: progress("verify", done, total))
    problems = [f"{sample['sample']}: {problem}" for sample in report["samples"] for problem in sample["problems"]]
    if problems:
        problem = f"the compiled bundle does not reproduce its golden samples: {'; '.join(problems)}"
        raise VerificationError(problem, "Nothing was written. Build the bundle in a higher precision")
    return report, None
