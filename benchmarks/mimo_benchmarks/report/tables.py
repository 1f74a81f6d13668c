"""The numbers for people: aligned text."""

from __future__ import annotations

from mimo_runtime.utils.tables import table

from ..request import KINDS
from .machine import Machine, ProcessMemory, loads
from .results import Footprint, IsolationCheck, Latency

_TITLES = {
    "first_ask": "first ask (new image: masks and text)",
    "second_ask": "second ask (image known: masks and text)",
    "mask_only": "mask only (new image)",
    "second_ask_mask_only": "mask only (image known)",
    "repeated_ask_mask_only": "mask only (image and question known)",
    "text_only": "text only (new image)",
}


def latency_table(result: Latency) -> str:
    """Medians with the 90th percentile and how many times faster ``mimo`` is; then where ``mimo`` spends its time."""
    contenders = result["contenders"]
    names = list(contenders)
    busy = " BUSY MACHINE" if result["machine"].get("busy") else ""
    rows = [(f"median ms (p90){busy}", *names)]
    for kind in KINDS:
        rows.append((_TITLES[kind], *(_cell(result, name, kind) for name in names)))
    speeds = ((n, contenders[n]["tokens_per_s"]) for n in names)
    rows.append(("tokens per second", *(f"{v:.0f}{_times(result, n, 'tokens_per_s')}" if v else "–" for n, v in speeds)))
    rows.append(("resident memory, MB (peak)", *(_memory(contenders[n]) for n in names)))
    stages = "  ".join(f"{stage} {times['p50_ms']:.1f}" for stage, times in contenders["mimo"]["stages"].items())
    agreement, bundle = result["agreement"], result["bundle"]
    dice = ", ".join(f"{n} {d:.4f}" for n, d in agreement["masks_dice"].items() if d is not None) or "no masks"
    same = "all the same text" if agreement["same_text"] else f"{', '.join(agreement['differs'])} DIFFERENT TEXT"
    turns = f"{result['repeats']} repeats in turns (the others {result['between_turns']}, order seed {result['seed']})"
    measured = f"{turns}, {_machine(result['machine'])}"
    lines = [
        f"{bundle['id']} ({bundle['target']}), {measured}",
        table(rows),
        f"  mimo, first ask by stage (ms): {stages}",
        f"  mimo, share of time outside engines: {100 * result['glue_fraction']:.1f} %",
        f"  answers: {same}, {agreement['timed_tokens']} tokens timed; mask Dice against mimo: {dice}",
        *(f"  {name}: {', '.join(f'{e}: {how}' for e, how in contenders[name]['spinning'].items())}" for name in names),
        *(f"  {name} is {of['description']}" for name, of in contenders.items() if of["description"]),
        *(f"  skipped {name}: {reason}" for name, reason in result["skipped"].items()),
        f"  processor time of contenders outside of their turns: {_seconds(result['idle_cpu_s'])}",
        *([_alone(result["check_alone"])] if result["check_alone"] else []),
        *(f"  warning: {line}" for line in result["warnings"]),
    ]
    return "\n".join(lines)


def _cell(result: Latency, name: str, kind: str) -> str:
    times = result["contenders"][name].get(kind)
    return f"{times['p50_ms']:.1f} ({times['p90_ms']:.1f}){_times(result, name, kind)}" if times else "–"


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f} s"


def _alone(check: IsolationCheck) -> str:
    pairs = {(name, kind): of for name, kinds in check["contenders"].items() for kind, of in kinds.items()}
    (name, kind), of = max(pairs.items(), key=lambda item: abs(item[1]["difference"]))
    low, high = (100 * value for value in of["ci95"])
    where = f"{100 * of['difference']:+.1f} % at most ({kind} of {name}, 95 % interval {low:+.1f} to {high:+.1f} %)"
    return f"  in turns against by itself: {where}, {'within' if check['passed'] else 'BEYOND'} {100 * check['limit']:.0f} %"


def footprint_table(result: Footprint) -> str:
    """Import times, load time, the first answer and memory."""
    imports, process = result["import"], result["process"]
    rows = [
        ("import mimo_runtime", f"{imports['mimo_runtime_s']:.3f} s"),
        ("from mimo_runtime import Mimo", f"{imports['mimo_s']:.3f} s"),
        ('python -c "import mimo_runtime"', f"{imports['process_s']:.3f} s; python -c pass: {imports['interpreter_s']:.3f} s"),
        ("load the bundle", f"{process['load_s']:.3f} s"),
        ("first answer", f"{process['first_answer_s']:.3f} s"),
        ("resident memory after it", _memory(process) + " MB (peak)"),
        ("estimate for max_memory", f"{result['estimated_mb']} MB"),
        ("graphs in the bundle", f"{result['bundle_mb']:.1f} MB"),
        ("torch, transformers, onnx loaded", ", ".join(process["heavy_modules"]) or "none"),
    ]
    return "\n".join([_machine(result["machine"]), table(rows), *(f"  warning: {line}" for line in result["warnings"])])


def _machine(m: Machine) -> str:
    engines = ", ".join(f"{name} {version}" for name, version in m["engines"].items())
    return f"{m['cpu']}, {m['cores']} cores, threads {m['threads']}, {engines}, {loads(m)}"


def _times(result: Latency, name: str, what: str) -> str:
    ratio = result["ratios"].get(name, {}).get(what)
    return "" if ratio is None else f" {ratio:.2f}x"


def _memory(process: ProcessMemory) -> str:
    return f"{process['resident_mb']:.0f}" + (f" ({process['peak_mb']:.0f})" if process["peak_mb"] else "")
