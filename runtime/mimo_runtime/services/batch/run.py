"""A batch from its items to its summary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from ...errors import RequestError
from ...hardware.host import usable_cores
from ...utils.progress import Progress, silent
from .answering import Answerer, Outcome
from .items import BatchItem
from .ledger import Ledger
from .local import answer_in_threads
from .settings import BatchSettings
from .summary import write_summary

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Workers:
    """Who answers.

    Args:
        engine: "local", threads of this process, or "ray", processes of a Ray cluster.
        jobs: images at a time.
        ray_address: of a running cluster; None starts one of this machine.
    """

    engine: str = "local"
    jobs: int = 1
    ray_address: str | None = None


@dataclass(frozen=True)
class BatchReport:
    """What a batch did.

    Args:
        images: of the batch.
        answered: in this run.
        resumed: answered by an earlier run, or equal to another image of the batch.
        failures: number of the item and reason.
        left_out: answers whose clinical objects lack a format.
        files: names in the output folder.
        seconds: of this run.
    """

    images: int
    answered: int
    resumed: int
    failures: tuple[tuple[int, str], ...]
    left_out: int
    files: tuple[str, ...]
    seconds: float


def run_batch(
    settings: BatchSettings, items: Sequence[BatchItem], workers: Workers = Workers(), progress: Progress = silent  # noqa: B008
) -> BatchReport:  # fmt: skip
    """Answer about all items, resume where an earlier run of the output folder ended, and write the summary.

    Args:
        settings: of the batch; without ``threads``, the cores are divided among the jobs.
        items: numbers from 1.
        workers: who answers.
        progress: called as ``progress("images", done, total)``.

    Returns:
        What was done. Images that failed are listed; the next run tries them again.

    Raises:
        RequestError: nothing to do, no question about an image, an output folder that is no batch or in use, or that cannot be
            written.
        BundleError, EngineError: the model cannot be loaded.
    """
    if not items:
        raise RequestError("the batch has no images", "Name a folder, a list or a query with images")
    if workers.engine not in ENGINES or workers.jobs < 1:
        raise RequestError(f"engine {workers.engine!r} with {workers.jobs} jobs", f"Use {' or '.join(ENGINES)}, 1 job or more")
    empty = [number for number, item in enumerate(items, 1) if item.question.is_empty]
    if empty:
        what = f"nothing is asked about {len(empty)} of {len(items)} images, first input {empty[0]}"
        raise RequestError(what, "Give a text, a box or a point, in the command or in the list")
    if workers.engine == "ray":
        from .ray_engine import require_ray

        require_ray()
    began = time.monotonic()
    settings = replace(settings, threads=settings.threads or max(1, usable_cores() // workers.jobs))
    outcomes: list[Outcome] = []
    answered = 0
    with Ledger(settings.output) as ledger:
        done = frozenset(ledger.entries)
        for outcome in _answers(settings, done, items, workers):
            if outcome.entry is not None and outcome.key not in ledger.entries:
                ledger.add(outcome.entry)
                answered += 1
            outcomes.append(replace(outcome, entry=None))
            progress("images", len(outcomes), len(items))
        files = write_summary(settings.output, items, outcomes, ledger.entries, sources=not settings.salt)
        failures = tuple(sorted((outcome.number, outcome.failure) for outcome in outcomes if outcome.failure))
        keys = {outcome.key for outcome in outcomes if not outcome.failure}
        left_out = sum(1 for key in keys if ledger.entries[key].left_out)
    return BatchReport(
        len(items), answered, len(items) - answered - len(failures), failures, left_out, tuple(files),
        round(time.monotonic() - began, 3),
    )  # fmt: skip


def _answers(
    settings: BatchSettings, done: frozenset[str], items: Sequence[BatchItem], workers: Workers
) -> Iterator[Outcome]:  # fmt: skip
    if workers.engine == "ray":
        from .ray_engine import answer_with_ray

        yield from answer_with_ray(settings, done, items, workers.jobs, workers.ray_address)
        return
    with closing(Answerer(settings, done)) as answerer:
        yield from answer_in_threads(answerer, items, workers.jobs)
