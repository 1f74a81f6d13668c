"""The build report for people: requested and delivered precision, and how well the files agree with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mimo_runtime.domain.statistics import DOMAIN

from ..parity.summary import AnswerParity, ParitySummary
from ..schema import BuildReport, DomainParity, GraphFile, Inspection

_GRAPH_KEYS = ("engine", "threads", "asked", "delivered", "file", "sha256", "bytes", "build")
#: Of graphs for which they were measured to be better, and of those compiled for one processor.
_MEASURED_KEYS = ("speculation", "options", "compiled")


def markdown(report: BuildReport) -> str:
    """``report.md`` from the content of ``report.json``."""
    parity, model = ParitySummary.from_dict(report["parity"]), report["model"]
    total = sum(graph["bytes"] for graph in report["graphs"].values())
    cache, decoding = report.get("kv_cache"), report.get("decoding")
    lines = [
        f"# {model['id']} for {report['target']}",
        "",
        f"{model['parameters'] / 1e6:.2f} million parameters, {total / 1e6:.1f} MB of graphs.",
        "",
        *_graph_table(report["graphs"], parity),
        "",
        "*delivered*: matrix operators by the precision they have in the file. *relative L2*: the worst output of the worst",
        "call, written file against PyTorch on the same inputs, which come from the running chain; batch 1 and batch 2.",
        "",
        *(f"{line}\n" for line in where_measured(report["target"], report["graphs"], parity.measured_on)),
        *([f"The text decoder has a {cache['kind']} KV cache: {cache['reason']}.\n"] if cache else []),
        *([f"Greedy answers are written by {decoding['kind']} decoding: {decoding['reason']}.\n"] if decoding else []),
        f"Measured over {describe_samples(parity.samples)}.",
        *(_answer_table(parity.answers, parity.limits) if parity.answers else []),
        *missed_lines(parity),
        *(domain_lines(report["domain"]) if "domain" in report else []),
    ]
    if "precision" in report:
        from .precision import precision_lines  # imports onnx, which ``mimo-export inspect`` runs without

        lines += precision_lines(report["precision"])
    if report["golden"]:
        lines += ["", "Golden samples (phantoms), which `mimo-run verify` repeats on a device:", ""]
        lines += [f"- `golden/{k:02d}` {line}" for k, line in enumerate(report["golden"])]
    return "\n".join(lines) + "\n"


def _graph_table(graphs: Mapping[str, GraphFile], parity: ParitySummary) -> list[str]:
    rows = [("graph", "engine", "asked", "delivered", "MB", "nodes", "relative L2", "needed"), ("---",) * 4 + ("---:",) * 4]
    for name, graph in graphs.items():
        measured = parity.graphs[name]
        rows.append(
            (
                name,
                graph["engine"],
                graph["asked"],
                counts(graph["delivered"]),
                f"{graph['bytes'] / 1e6:.2f}",
                str(graph["nodes"]),
                f"{measured['relative_l2']:.1e}",
                f"{measured['limit']:g}",
            )
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def _answer_table(answers: AnswerParity, limits: Mapping[str, float]) -> list[str]:
    masks = [
        f"| masks, mean Dice over {answers.masks} | {answers.masks_dice:.5f} | {limits['masks_dice']} |",
        f"| masks, lowest Dice | {answers.masks_dice_min:.5f} | |",
    ]
    return [
        "",
        "| end to end | measured | needed |",
        "| --- | ---: | ---: |",
        *(masks if answers.masks else [f"| masks: no finding is present | none | {limits['masks_dice']} |"]),
        f"| greedy text identical | {100 * answers.text_agreement:.1f} % | {100 * limits['text_agreement']:.1f} % |",
        f"| present or absent decided alike | {100 * answers.presence_agreement:.1f} % | "
        f"{100 * limits['presence_agreement']:.1f} % |",
    ]


def domain_lines(report: DomainParity) -> list[str]:
    """How the verdicts on the domain of images compare with those of PyTorch."""
    return [
        "",
        f"Domain statistics: {report['same_verdicts']} of {report['images']} images of the parity check have the verdict of "
        f"PyTorch; the largest change of a score is {report['largest_change']:.3f}.",
    ]


def missed_lines(parity: ParitySummary) -> list[str]:
    """Limits of parity that a bundle misses although it ships."""
    return [f"outside the limits of parity, shipped because of --force: {problem}" for problem in parity.missed]


def where_measured(target: str, graphs: Mapping[str, GraphFile], measured_on: str | None) -> list[str]:
    """What ran where, in words, for a bundle whose files another engine computed than the one that will run them.

    Args:
        measured_on: that other engine; None if there is none.
    """
    lines = []
    if any(graph["build"] for graph in graphs.values()):
        lines.append(f"Portable: the graphs are ONNX files, which mimo-run prepare compiles with {target} on the device.")
    if measured_on is None or all(graph["engine"] == measured_on for graph in graphs.values()):
        return lines
    if any(not graph["file"].endswith(".onnx") for graph in graphs.values()):
        lines.append("The graphs are compiled; parity and precision are those of the ONNX files that they were compiled from.")
    lines.append(f"Everything was measured on the ONNX files with {measured_on} on the CPU, not on a GPU: nothing here says "
                 f"how fast {target} is, and mimo-run verify on the GPU says whether it computes the same.")  # fmt: skip
    return lines


def counts(delivered: Mapping[str, int]) -> str:
    """``{"int8": 0, "fp16": 0, "fp32": 9}`` -> ``9 fp32``."""
    return ", ".join(f"{n} {precision.replace('_', ' ')}" for precision, n in delivered.items() if n) or "nothing"


def describe_samples(samples: Mapping[str, int]) -> str:
    """``{"busi_us": 4, "phantom": 8}`` -> ``12 samples (4 busi_us, 8 phantom)``."""
    return f"{sum(samples.values())} samples ({', '.join(f'{n} {source}' for source, n in samples.items())})"


def inspect_dict(manifest: Mapping[str, Any]) -> Inspection:
    """What ``mimo-export inspect --json`` prints.

    Args:
        manifest: of a bundle, or the report of a folder of graphs with a ``format``.
    """
    result: Inspection = {
        "format": manifest["format"],
        "target": manifest["target"],
        "portable": any(graph["build"] for graph in manifest["graphs"].values()),
        "compute_capability": manifest["compatibility"]["compute_capability"],
        "graphs": {
            name: cast("GraphFile", {key: graph[key] for key in (*_GRAPH_KEYS, *(k for k in _MEASURED_KEYS if graph.get(k)))})
            for name, graph in manifest["graphs"].items()
        },
        "parity": manifest["parity"],
        "domain_statistics": DOMAIN in manifest.get("files", {}),
    }
    if processor := manifest["compatibility"].get("processor"):
        result["processor"] = processor
    return result
