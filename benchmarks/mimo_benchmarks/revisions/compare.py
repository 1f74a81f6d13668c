"""Whether this checkout answers as an earlier revision does, and in what time.

Two processes, one with the runtime of each revision, are alive at the same time and answer the same questions in turns. Who
begins changes from question to question and from round to round.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TypedDict

import numpy as np

from mimo_runtime.data.dataset import Dataset
from mimo_runtime.evaluation.metrics import bootstrap_ci
from mimo_runtime.utils.tables import table

from ..report import machine
from .checkout import REPOSITORY, RUNTIME, current_revision, export_runtime, resolve_revision
from .process import Reply, RevisionProcess
from .questions import Question, draw_questions, write_questions

#: Differences that the result lists.
LISTED = 20
EARLIER, CURRENT = "earlier", "current"


class Difference(TypedDict):
    """One question that the revisions answer differently; ``differs`` names what: masks, texts, scores or errors."""

    kind: str
    image: str
    text: str
    differs: list[str]


class Latency(TypedDict):
    """Milliseconds of whole answers: medians over questions of medians over rounds.

    ``ratio`` is the geometric mean over questions of the time now to the time before, with its 95 % bootstrap interval.
    """

    earlier_p50_ms: float
    current_p50_ms: float
    ratio: float
    ratio_ci95: list[float]
    n: int


class Comparison(TypedDict):
    """The JSON of ``mimo-bench compare-revisions``. ``equal`` counts questions by what is the same in both answers."""

    earlier: dict[str, str | bool]
    current: dict[str, str | bool]
    bundle: str
    questions: int
    refused: int
    equal: dict[str, int]
    different: int
    differences: list[Difference]
    latency: Latency
    latency_by_kind: dict[str, Latency]
    repeats: int
    machine: dict[str, object]
    warnings: list[str]


def compare_revisions(
    revision: str,
    bundle: Path,
    datasets: Sequence[Dataset],
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    repeats: int = 3,
    threads: int | None = None,
    earlier_bundle: Path | None = None,
    repository: Path = REPOSITORY,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Comparison:
    """Ask the runtime of ``revision`` and that of this checkout the same questions.

    Args:
        revision: a commit, branch or tag.
        limit: at most this many images per set, drawn with ``seed``.
        repeats: rounds over all questions. The first compares the answers and is not timed if there are more.
        earlier_bundle: that ``revision`` answers with; None is ``bundle``.
        repository: the checkout.
        progress: called with (what is done now, steps done, steps in all).

    Raises:
        RequestError: unknown revision, empty split, or an image that cannot be read.
        EngineError: a revision cannot load the bundle.
    """
    commit, (head, modified) = resolve_revision(revision, repository), current_revision(repository)
    with tempfile.TemporaryDirectory(prefix="mimo-revisions-") as name, ExitStack() as stack:
        folder = Path(name)
        questions = draw_questions(datasets, split, folder, limit=limit, seed=seed)
        write_questions(questions, folder / "questions.jsonl")
        trees = {EARLIER: export_runtime(commit, folder / EARLIER, repository), CURRENT: repository / RUNTIME}
        described = machine.describe(threads=threads)
        models = {EARLIER: earlier_bundle or bundle, CURRENT: bundle}
        processes = (RevisionProcess(side, tree, models[side], folder, threads) for side, tree in trees.items())
        workers = [stack.enter_context(process) for process in processes]
        first, times = _ask_in_turns(workers, len(questions), repeats, progress)
    machine.finish(described)
    differing = [_differs(a, b) for a, b in zip(first[EARLIER], first[CURRENT])]
    kinds = [question.kind for question in questions]
    taken = [(median(a), median(b)) for a, b in zip(times[EARLIER], times[CURRENT])]
    return {
        "earlier": {"revision": revision, "commit": commit},
        "current": {"commit": head, "modified": modified},
        "bundle": bundle.name,
        "questions": len(questions),
        "refused": sum(bool(reply.error) for reply in first[CURRENT]),
        "equal": {what: sum(what not in parts for parts in differing) for what in ("masks", "texts", "scores", "errors")},
        "different": sum(map(bool, differing)),
        "differences": [_difference(q, parts) for q, parts in zip(questions, differing) if parts][:LISTED],
        "latency": _latency(taken, seed),
        "latency_by_kind": {
            kind: _latency([ms for ms, of in zip(taken, kinds) if of == kind], seed) for kind in dict.fromkeys(kinds)
        },
        "repeats": repeats,
        "machine": described,
        "warnings": machine.warnings(described),
    }


def _ask_in_turns(
    workers: Sequence[RevisionProcess], questions: int, repeats: int, progress: Callable[[str, int, int], None]
) -> tuple[dict[str, list[Reply]], dict[str, list[list[float]]]]:
    """By worker: the answers of the first round, and the milliseconds of every question in the other rounds."""
    first: dict[str, list[Reply]] = {worker.name: [] for worker in workers}
    times: dict[str, list[list[float]]] = {worker.name: [[] for _ in range(questions)] for worker in workers}
    steps = questions * repeats
    for step, (repeat, number) in enumerate(itertools.product(range(repeats), range(questions))):
        progress("asking", step, steps)
        for worker in workers if (repeat + number) % 2 else workers[::-1]:
            reply = worker.ask(number, masks=repeat == 0)
            if repeat == 0:
                first[worker.name].append(reply)
            if repeat or repeats == 1:
                times[worker.name][number].append(reply.ms)
    progress("asking", steps, steps)
    return first, times


def comparison_table(result: Comparison) -> str:
    """The result for people."""
    earlier, current, count = result["earlier"], result["current"], result["questions"]
    modified = " with changes" if current["modified"] else ""
    rows = [("questions", "earlier, ms", "current, ms", "ratio", "95 % interval", "n")]
    for kind, ms in [*result["latency_by_kind"].items(), ("all", result["latency"])]:
        low, high = ms["ratio_ci95"]
        rows.append((kind, f"{ms['earlier_p50_ms']:.1f}", f"{ms['current_p50_ms']:.1f}", f"{ms['ratio']:.3f}",
                     f"{low:.3f} to {high:.3f}", str(ms["n"])))  # fmt: skip
    equal = ", ".join(f"{what} {n}" for what, n in result["equal"].items())
    commits = f"{earlier['revision']} ({str(earlier['commit'])[:10]}) and {str(current['commit'])[:10]}{modified}"
    lines = [
        f"{result['bundle']}: {commits}",
        f"  equal in {count} questions: {equal}; refused by both: {result['refused']}",
        *(f"  differs in {', '.join(d['differs'])}: {d['kind']} '{d['text']}' {d['image']}" for d in result["differences"]),
        "",
        table(rows),
        *(f"  warning: {line}" for line in result["warnings"]),
    ]
    return "\n".join(lines)


def _differs(a: Reply, b: Reply) -> list[str]:
    """What differs between two answers to one question. Masks are compared to the bit, texts to the letter."""
    if a.error or b.error:
        return ["errors"] if a.error != b.error else []
    masks = len(a.masks) == len(b.masks) and all(map(np.array_equal, a.masks, b.masks))
    same = {"masks": masks, "texts": a.text == b.text, "scores": a.findings == b.findings}
    return [what for what, equal in same.items() if not equal]


def _difference(question: Question, differs: list[str]) -> Difference:
    image = Path(question.image)
    where = f"{image.parent.parent.name}/{image.name}"
    return {"kind": question.kind, "image": where, "text": question.text, "differs": differs}


def _latency(pairs: Sequence[tuple[float, float]], seed: int) -> Latency:
    earlier, current = zip(*pairs)
    logarithms = np.log(np.divide(current, earlier)).tolist()
    return {
        "earlier_p50_ms": round(median(earlier), 3),
        "current_p50_ms": round(median(current), 3),
        "ratio": round(float(np.exp(np.mean(logarithms))), 4),
        "ratio_ci95": [round(float(np.exp(value)), 4) for value in bootstrap_ci(logarithms, seed=seed)],
        "n": len(pairs),
    }
