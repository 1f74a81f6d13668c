"""The numbers for people: aligned text."""

from __future__ import annotations

from typing import Any

from mimo_runtime.cli.app import table

from ..contenders import KINDS

_TITLES = {
    "first_ask": "first ask (new image: masks and text)",
    "second_ask": "second ask (image known: masks and text)",
    "mask_only": "mask only (new image)",
    "second_ask_mask_only": "mask only (image known)",
    "text_only": "text only (new image)",
}


def latency_table(result: dict[str, Any]) -> str:
    """Medians with the 90th percentile and how many times faster ``mimo`` is; then where ``mimo`` spends its time."""
    found = result["contenders"]
    names = list(found)
    rows = [("median ms (p90)", *names)]
    for kind in KINDS:
        cells = [f"{found[n][kind]['p50_ms']:.1f} ({found[n][kind]['p90_ms']:.1f}){_times(result, n, kind)}" for n in names]
        rows.append((_TITLES[kind], *cells))
    rows.append(("tokens per second", *(f"{found[n]['tokens_per_s']:.0f}{_times(result, n, 'tokens_per_s')}" for n in names)))
    rows.append(("resident memory, MB (peak)", *(_memory(found[n]) for n in names)))
    stages = "  ".join(f"{stage} {times['p50_ms']:.1f}" for stage, times in found["mimo"]["stages"].items())
    agreement = result["agreement"]
    dice = ", ".join(f"{n} {d:.4f}" for n, d in agreement["masks_dice"].items() if d is not None) or "no masks"
    same = "all the same text" if agreement["same_text"] else f"{', '.join(agreement['differs'])} DIFFERENT TEXT"
    lines = [
        f"{result['bundle']['id']} ({result['bundle']['target']}), {result['repeats']} repeats in turns, {_machine(result)}",
        table(rows),
        f"  mimo, first ask by stage (ms): {stages}",
        f"  mimo, share of time outside engines: {100 * result['glue_fraction']:.1f} %",
        f"  answers: {same}, {agreement['timed_tokens']} tokens timed; mask Dice against mimo: {dice}",
        *(f"  warning: {told}" for told in result["warnings"]),
    ]
    return "\n".join(lines)


def footprint_table(result: dict[str, Any]) -> str:
    took, process = result["import"], result["process"]
    rows = [
        ("import mimo_runtime", f"{took['mimo_runtime_s']:.3f} s"),
        ("from mimo_runtime import Mimo", f"{took['mimo_s']:.3f} s"),
        ('python -c "import mimo_runtime"', f"{took['process_s']:.3f} s; python -c pass: {took['interpreter_s']:.3f} s"),
        ("load the bundle", f"{process['load_s']:.3f} s"),
        ("first answer", f"{process['first_answer_s']:.3f} s"),
        ("resident memory after it", _memory(process) + " MB (peak)"),
        ("graphs in the bundle", f"{result['bundle_mb']:.1f} MB"),
        ("torch, transformers, onnx loaded", ", ".join(process["heavy_modules"]) or "none"),
    ]
    return "\n".join([_machine(result), table(rows), *(f"  warning: {told}" for told in result["warnings"])])


def _machine(result: dict[str, Any]) -> str:
    m = result["machine"]
    engines = ", ".join(f"{name} {version}" for name, version in m["engines"].items())
    return f"{m['cpu']}, {m['cores']} cores, threads {m['threads']}, {engines}"


def _times(result: dict[str, Any], name: str, what: str) -> str:
    return f" {result['ratios'][name][what]:.2f}x" if name in result["ratios"] else ""


def _memory(found: dict[str, Any]) -> str:
    return f"{found['resident_mb']:.0f}" + (f" ({found['peak_mb']:.0f})" if found["peak_mb"] else "")
