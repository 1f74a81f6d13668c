"""The build report: what was asked, what was delivered, and how well it agrees, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .precision import precision_lines


def markdown(told: Mapping[str, Any]) -> str:
    """``report.md`` from the content of ``report.json``."""
    parity, model, golden = told["parity"], told["model"], told["golden"]
    rows = [("graph", "engine", "asked", "delivered", "MB", "nodes", "relative L2", "needed"), ("---",) * 4 + ("---:",) * 4]
    for name, graph in told["graphs"].items():
        rows.append(
            (
                name,
                graph["engine"],
                graph["asked"],
                counts(graph["delivered"]),
                f"{graph['bytes'] / 1e6:.2f}",
                str(graph["nodes"]),
                f"{parity[name]['relative_l2']:.1e}",
                f"{parity[name]['limit']:g}",
            )
        )
    total = sum(graph["bytes"] for graph in told["graphs"].values())
    lines = [
        f"# {model['id']} for {told['target']}",
        "",
        f"{model['parameters'] / 1e6:.2f} million parameters, {total / 1e6:.1f} MB of graphs.",
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        "*delivered*: matrix operators by the precision they have in the file. *relative L2*: the worst output of the worst",
        "call, written file against PyTorch on the same inputs, which come from the running chain; batch 1 and batch 2.",
        "",
        *(f"{line}\n" for line in where_measured(told)),
        f"Measured over {describe_samples(parity['samples'])}.",
    ]
    if "masks_dice" in parity:
        limits = parity["limits"]
        lines += [
            "",
            "| end to end | measured | needed |",
            "| --- | ---: | ---: |",
            f"| masks, mean Dice over {parity['masks']} | {parity['masks_dice']:.5f} | {limits['masks_dice']} |",
            f"| masks, lowest Dice | {parity['masks_dice_min']:.5f} | |",
            f"| greedy text identical | {100 * parity['text_agreement']:.1f} % | {100 * limits['text_agreement']:.1f} % |",
            f"| present or absent decided alike | {100 * parity['presence_agreement']:.1f} % | "
            f"{100 * limits['presence_agreement']:.1f} % |",
        ]
    lines += missed_lines(parity)
    if "precision" in told:
        lines += precision_lines(told["precision"])
    if golden:
        lines += ["", "Golden samples (phantoms), which `mimo-run verify` repeats on a device:", ""]
        lines += [f"- `golden/{k:02d}` {line}" for k, line in enumerate(golden)]
    return "\n".join(lines) + "\n"


def missed_lines(parity: Mapping[str, Any]) -> list[str]:
    """What a forced build ships although it is outside the limits of parity; an earlier version told of none."""
    return [f"outside the limits of parity, shipped because of --force: {told}" for told in parity.get("missed", ())]


def where_measured(told: Mapping[str, Any]) -> list[str]:
    """What ran where, in words, for a bundle whose files another engine computed than the one that will run them.

    Args:
        told: a report, or what ``inspect`` prints.
    """
    graphs, engine = told["graphs"].values(), told["parity"]["measured_on"]
    target = told["target"]
    lines = []
    if any(graph["build"] for graph in graphs):
        lines.append(f"Portable: the graphs are ONNX files, which mimo-run prepare compiles with {target} on the device.")
    if engine is None or all(graph["engine"] == engine for graph in graphs):
        return lines
    if any(not graph["file"].endswith(".onnx") for graph in graphs):
        lines.append("The graphs are plans; parity and precision are those of the ONNX files that they were compiled from.")
    lines.append(f"Everything was measured on the ONNX form with {engine} on the CPU, not on a GPU: nothing here says how fast "
                 f"{target} is, and mimo-run verify on the GPU says whether it computes the same.")  # fmt: skip
    if cache := told.get("cache"):
        lines.append(f"The cache of the text decoder: {cache['form'].replace('_', ' ')}; {cache['reason']}.")
    return lines


def counts(delivered: Mapping[str, int]) -> str:
    """``{"int8": 0, "fp16": 0, "fp32": 9}`` -> ``9 fp32``."""
    return ", ".join(f"{n} {precision.replace('_', ' ')}" for precision, n in delivered.items() if n) or "nothing"


def describe_samples(samples: Mapping[str, int]) -> str:
    """``{"busi_us": 4, "phantom": 8}`` -> ``12 samples (4 busi_us, 8 phantom)``."""
    return f"{sum(samples.values())} samples ({', '.join(f'{n} {source}' for source, n in samples.items())})"


def inspect_dict(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What ``mimo-export inspect --json`` prints (docs/reference/json.md)."""
    keys = ("engine", "threads", "asked", "delivered", "file", "sha256", "bytes", "build")
    return {
        "format": manifest["format"],
        "target": manifest["target"],
        "portable": any(graph["build"] for graph in manifest["graphs"].values()),
        "compute_capability": manifest["compatibility"]["compute_capability"],
        "graphs": {name: {key: graph[key] for key in keys} for name, graph in manifest["graphs"].items()},
        "parity": manifest["parity"],
    }
