"""All rounds of a measurement: warm-up, samples in turns, and for the check samples of each contender by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mimo_runtime.errors import EngineError, MimoError
from mimo_runtime.utils.progress import Progress

from ..contenders import Sample
from ..report import machine
from ..request import KINDS, Request
from ..worker import Worker
from .order import Rounds, Samples, shuffled, take_turn


@dataclass
class MeasuredRounds:
    """Samples by contender. ``alone`` is empty without the check.

    ``load``: cores that the contenders used on average, and ``idle_cpu_s``: processor time of contenders while another one had
    its turn. Both are None where the system does not say.
    """

    samples: dict[str, Samples]
    alone: dict[str, Samples] = field(default_factory=dict)
    load: float | None = None
    idle_cpu_s: float | None = None


def sample_rounds(
    workers: Sequence[Worker],
    request: Request,
    rounds: Rounds,
    check_alone: bool,
    progress: Progress,
    failed: Callable[[str, MimoError], None] | None = None,
) -> MeasuredRounds:
    """Rounds without samples, then rounds with samples.

    With ``check_alone`` every turn is followed by another one of the same contender. No other contender runs in between, so
    the second turn measures it by itself.

    Args:
        failed: called with the name of a contender that failed and the error; the others go on without it. None, or an error
            that it raises, ends the measurement.

    Raises:
        EngineError: a contender died, or decodes another number of tokens than before.
    """
    measured = MeasuredRounds({worker.name: {kind: [] for kind in worker.kinds} for worker in workers})
    if check_alone:
        measured.alone = {name: {kind: [] for kind in of} for name, of in measured.samples.items()}
    meter = _Processors(workers)
    steps = rounds.warmup + rounds.repeats
    for repeat in range(steps):
        is_sampled = repeat >= rounds.warmup
        progress("measuring" if is_sampled else "warming up", repeat, steps)
        targets = (measured.samples, measured.alone) if check_alone and is_sampled else (measured.samples,)
        for worker, kinds in shuffled(workers, rounds.seed, repeat):
            if worker.name not in measured.samples:  # it failed before
                continue
            try:
                for target in targets:
                    with meter.turn(worker):
                        taken = take_turn(worker, request, kinds)
                    _keep(taken, worker.name, request, target[worker.name] if is_sampled else None)
            except MimoError as error:
                if failed is None:
                    raise
                failed(worker.name, error)
                for samples in (measured.samples, measured.alone):
                    samples.pop(worker.name, None)
    progress("measuring", steps, steps)
    measured.load, measured.idle_cpu_s = meter.load(), meter.idle_s
    return measured


def _keep(taken: dict[str, Sample], name: str, request: Request, samples: Samples | None) -> None:
    for kind, sample in taken.items():
        expected = request.max_tokens or 0 if KINDS[kind].text else 0
        if len(sample.tokens) != expected:
            what = f"contender {name} decoded {len(sample.tokens)} tokens instead of {expected} in {kind}"
            raise EngineError(what, "It does not repeat its own answer, so its times mean nothing: leave it out of --against")
        if samples is not None:
            samples[kind].append(sample)


class _Processors:
    """Processor time of the workers since the start: in all, and outside of their turns."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers, self._start = workers, time.perf_counter()
        self._used = self._seconds(workers)
        self.idle_s = None if self._used is None else 0.0
        self._others: Sequence[Worker] = ()
        self._before: float | None = None

    def turn(self, worker: Worker) -> _Processors:
        self._others = [other for other in self._workers if other is not worker]
        return self

    def __enter__(self) -> None:
        self._before = self._seconds(self._others)

    def __exit__(self, *_: object) -> None:
        after = self._seconds(self._others)
        if self.idle_s is not None and self._before is not None and after is not None:
            self.idle_s = round(self.idle_s + after - self._before, 2)

    def load(self) -> float | None:
        """Cores used on average until now."""
        used = self._seconds(self._workers)
        if used is None or self._used is None:
            return None
        return round((used - self._used) / (time.perf_counter() - self._start), 2)

    @staticmethod
    def _seconds(workers: Sequence[Worker], read: Callable[[int], float | None] = machine.cpu_seconds) -> float | None:
        seconds = [read(worker.pid) for worker in workers]
        return None if None in seconds else sum(s for s in seconds if s is not None)
