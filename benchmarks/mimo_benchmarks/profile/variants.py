"""``python -m mimo_benchmarks.profile.variants BUNDLE``: settings of engines and merged graphs, compared on this machine.

The variants of a graph take turns on calls of the pipeline, so that other work of the machine slows all of them alike. Merged
are neighbours that run once per prompt: a merged graph saves the hand-over, and recomputes both parts when only one changes.
The vision encoder is also measured with the normalisation of the image, by numpy or inside the graph, and with four images
one by one or in batches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import click
import numpy as np
import onnx
from onnx import compose

from mimo_calibration.search.latency import interleaved
from mimo_runtime.bundle.archive import Bundle
from mimo_runtime.cli.app import Program
from mimo_runtime.engines import KINDS, create_engine, installed_version
from mimo_runtime.engines.ort import PROVIDER, load_library, session_options
from mimo_runtime.engines.recording import Arrays, RecordingEngine
from mimo_runtime.errors import EngineError, RequestError
from mimo_runtime.hardware.host import worker_threads
from mimo_runtime.model.graph_spec import GRAPHS
from mimo_runtime.pipeline import Mimo
from mimo_runtime.utils.tables import table

from ..report.machine import describe, finish, warnings
from .image_input import IMAGE, PIXELS, image_of, image_variants

#: Neighbours whose merger is measured.
PAIRS = (("prompt_encoder", "fusion"), ("fusion", "mask_decoder"))
#: Images of overlapping callers, encoded one by one or together.
FOUR = 4
#: A boxed and a named question about each of a few images of noise: the time does not depend on what is shown.
IMAGES = 2

Run = Callable[[Mapping[str, np.ndarray]], object]


class Row(TypedDict):
    """A variant of a graph, or of two neighbours; ``ratio``: how many times as fast as the first variant."""

    graph: str
    variant: str
    ms: float
    ratio: float


def record(bundle: Bundle, threads: int) -> dict[str, list[Arrays]]:
    """Inputs of the calls of every graph."""
    with Mimo.load(bundle, threads=threads) as mimo:
        recorders = {name: RecordingEngine(engine) for name, engine in mimo.engines.items()}
        recording, rng = Mimo(mimo.config, recorders, mimo.tokenizer, cache_images=0), np.random.default_rng(0)
        for _ in range(IMAGES):
            side = mimo.config.image_size
            scan = recording.open(rng.integers(0, 256, (side, side, 3), np.uint8))
            scan.ask("", boxes=[(side / 4, side / 4, side / 2, side / 2)], text_answer=False, refine=False, any_domain=True)
            scan.ask("What do you see?", text_answer=False, refine=False, any_domain=True)
    return {name: [inputs for inputs, _ in recorder.calls] for name, recorder in recorders.items()}


def merged(first: onnx.ModelProto, second: onnx.ModelProto) -> onnx.ModelProto:
    """Two neighbours as one graph, which takes what either takes and the other does not give, and gives what both give."""
    shared = [t.name for t in first.graph.input if t.name in {u.name for u in second.graph.input}]
    first = compose.add_prefix(first, "first/", rename_inputs=False, rename_outputs=False)
    second = compose.add_prefix(second, "second/", rename_inputs=False, rename_outputs=False)
    given = {t.name for t in first.graph.output}
    for name in shared:  # compose would refuse an input that both take
        _rename_input(second, name, f"second/{name}")
    links = [(t.name, t.name) for t in second.graph.input if t.name in given]
    model = compose.merge_models(first, second, links, outputs=[*given, *(t.name for t in second.graph.output)])
    for name in shared:
        _rename_input(model, f"second/{name}", name)
        ports = [t for t in model.graph.input if t.name == name]
        model.graph.input.remove(ports[-1])
    return model


def _rename_input(model: onnx.ModelProto, old: str, new: str) -> None:
    for port in model.graph.input:
        port.name = new if port.name == old else port.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def session(data: bytes, threads: int, spinning: bool = False, level: str = "ORT_ENABLE_ALL") -> Run:
    """A graph on ONNX Runtime with the settings of the runtime, some of them changed."""
    ort = load_library()
    options = session_options(ort, threads, spinning)
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    loaded = ort.InferenceSession(data, options, providers=[PROVIDER])
    return lambda inputs: loaded.run(None, dict(inputs))


def variants(bundle: Bundle, name: str, threads: int) -> Iterator[tuple[str, Run]]:
    """The variants of one graph that run here; the first one is the default of bundles."""
    entry = bundle.manifest.graphs[name]
    data = bundle.bytes(entry.file)
    for kind in ("onnxruntime", "openvino"):
        if installed_version(kind) is None:
            continue
        settings = [{}, *({option: value} for option, values in KINDS[kind].options.items() for value in values)]
        for options in settings:
            try:
                engine = create_engine(kind, data, entry.spec, threads=threads, options=options)
            except EngineError:  # no BF16 in this CPU
                continue
            yield ", ".join([kind, *(f"{option} {value}" for option, value in options.items())]), engine.run
    yield "onnxruntime, threads that spin", session(data, threads, spinning=True)
    # Without the last level, convolutions stay in channel-first order instead of blocks of channels.
    yield "onnxruntime, no blocked layout", session(data, threads, level="ORT_ENABLE_EXTENDED")


def rows_of(graph: str, runs: Mapping[str, Run], calls: Sequence[Arrays], seconds: float) -> list[Row]:
    """The variants of a graph in turn."""
    times = interleaved(runs, calls, seconds=seconds)
    first = next(iter(times.values()))
    return [{"graph": graph, "variant": name, "ms": round(ms, 4), "ratio": round(first / ms, 3)} for name, ms in times.items()]


def pair_rows(
    bundle: Bundle, pair: tuple[str, str], calls: Mapping[str, list[Arrays]], threads: int, seconds: float
) -> list[Row]:
    """Two neighbours one after the other, and merged."""
    models = [onnx.load_from_string(bundle.bytes(bundle.manifest.graphs[name].file)) for name in pair]
    first, second = (session(model.SerializeToString(), threads) for model in models)
    both, whole = list(zip(*(calls[name] for name in pair))), merged(*models)
    together = session(whole.SerializeToString(), threads)
    names = {t.name for t in whole.graph.input}
    inputs = [{name: value for name, value in {**b, **a}.items() if name in names} for a, b in both]
    taken = [[t.name for t in model.graph.input] for model in models]

    def apart(arrays: Mapping[str, np.ndarray]) -> object:
        outputs = first({name: arrays[name] for name in taken[0]})
        given = dict(zip([t.name for t in models[0].graph.output], outputs if isinstance(outputs, list) else []))
        return second({name: {**arrays, **given}[name] for name in taken[1]})

    return rows_of(" + ".join(pair), {"two graphs": apart, "merged": together}, inputs, seconds)


def image_rows(bundle: Bundle, calls: Sequence[Arrays], threads: int, seconds: float) -> list[Row]:
    """The vision encoder from the letterboxed image on."""
    entry = bundle.manifest.graphs["vision_encoder"]
    images = [{IMAGE: image_of(arrays[PIXELS])} for arrays in calls]
    runs = dict(image_variants(bundle.bytes(entry.file), entry, threads))
    return rows_of("image + vision_encoder", runs, images, seconds)


def batch_rows(bundle: Bundle, calls: Sequence[Arrays], threads: int, seconds: float) -> list[Row]:
    """Four images through the vision encoder, in batches of one, two and four; by engine."""
    entry = bundle.manifest.graphs["vision_encoder"]
    data, rows = bundle.bytes(entry.file), list[Row]()
    images = np.concatenate([calls[k % len(calls)][PIXELS] for k in range(FOUR)])
    for kind in ("onnxruntime", "openvino"):
        if installed_version(kind) is None:
            continue
        runs = {
            f"{kind}, {FOUR // size} runs of {size}": _in_batches(
                create_engine(kind, data, entry.spec, threads=threads).run, size
            )
            for size in (1, 2, FOUR)
        }
        rows += rows_of(f"four images, {kind}", runs, [{PIXELS: images}], seconds)
    return rows


def _in_batches(run: Run, size: int) -> Run:
    """Run a graph on ``size`` images at a time."""

    def run_all(inputs: Mapping[str, np.ndarray]) -> list[object]:
        images = inputs[PIXELS]
        return [run({PIXELS: images[k : k + size]}) for k in range(0, len(images), size)]

    return run_all


def measure(bundle: Bundle, threads: int, seconds: float) -> list[Row]:
    """One row per variant."""
    if any(entry.speculation or entry.options or not entry.is_onnx for entry in bundle.manifest.graphs.values()):
        raise RequestError(f"bundle {bundle.path} was tuned or compiled", "Build it with --precision fp32 --no-tune")
    calls = record(bundle, threads)
    rows = []
    for name in GRAPHS[:-1]:
        rows += rows_of(name, dict(variants(bundle, name, threads)), calls[name], seconds)
    rows += image_rows(bundle, calls["vision_encoder"], threads, seconds)
    rows += batch_rows(bundle, calls["vision_encoder"], threads, seconds)
    for pair in PAIRS:
        rows += pair_rows(bundle, pair, calls, threads, seconds)
    return rows


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1, 1024), help="Of every engine; default: one per physical core.")
@click.option("--seconds", default=8.0, show_default=True, type=click.FloatRange(0), help="How long to measure each graph.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, threads: int | None, seconds: float, as_json: bool) -> None:
    """Compare settings of engines, merged graphs, and batches of images, on the graphs of a bundle that was not tuned."""
    here = describe(("onnxruntime", "openvino"), threads)
    rows = measure(Bundle.open(bundle), threads or worker_threads(), seconds)
    finish(here)
    if as_json:
        click.echo(json.dumps({"machine": here, "variants": rows}, indent=1))
        return
    cells = [(row["graph"], row["variant"], f"{row['ms']:.3f}", f"{row['ratio']:.2f}") for row in rows]
    click.echo("\n".join([table([("graph", "variant", "ms", "times as fast"), *cells]), *warnings(here)]))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_benchmarks.profile.variants")
