"""Tries random changes of what comes from outside: each is accepted or refused with one line, and within limits.

``python tests/support/fuzz.py manifests|tokenizers|graphs|prompts|images [--count N] [--seed S]`` prints counts. The exit code
is 1 if any case raised another exception, ended its process, took over 10 s, or if the process needed over 1.5 GB. The cases
run in a child process; one that ends or hangs it is counted, and the next case runs in another child.
``--first K --count 1`` with the same seed repeats case K.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import resource
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

if __name__ == "__main__":
    _HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(_HERE), *(str(_HERE / name) for name in ("fake_libraries", "models", "data_sets", "cases"))]

from fuzz_cases import KINDS, Kind

#: Limits of one case, and of the process that runs them.
MOST_SECONDS, MOST_MB = 10.0, 1500
#: Until a child has loaded what it needs.
_START_SECONDS = 300.0
ACCEPTED, REFUSED, UNWRITABLE = "accepted", "refused", "not written"


@dataclass(frozen=True)
class Outcome:
    """How one case ended: accepted, refused, not written, or in words what is wrong."""

    number: int
    result: str
    seconds: float = 0.0
    #: The most memory of the process so far.
    peak_mb: int = 0


@dataclass
class Report:
    """Counts over the cases of one kind."""

    kind: str
    accepted: int = 0
    refused: int = 0
    #: Values that no JSON file can hold.
    not_written: int = 0
    slowest_s: float = 0.0
    peak_mb: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        if outcome.result in (ACCEPTED, REFUSED, UNWRITABLE):
            name = outcome.result.replace(" ", "_")
            setattr(self, name, getattr(self, name) + 1)
        else:
            self.failures.append(f"case {outcome.number}: {outcome.result}")
        if outcome.seconds > MOST_SECONDS:
            self.failures.append(f"case {outcome.number}: {outcome.seconds:.1f} s")
        if outcome.peak_mb > MOST_MB >= self.peak_mb:
            self.failures.append(f"case {outcome.number}: the process needs {outcome.peak_mb} MB")
        self.slowest_s, self.peak_mb = max(self.slowest_s, round(outcome.seconds, 3)), max(self.peak_mb, outcome.peak_mb)

    def line(self) -> str:
        return (
            f"{self.kind}: {self.accepted} accepted, {self.refused} refused, {self.not_written} not written, "
            f"{len(self.failures)} failed; slowest {self.slowest_s:.2f} s, peak {self.peak_mb} MB"
        )


def peak_mb() -> int:
    """Most memory that this process had resident. ``ru_maxrss`` of a child may be that of its parent before ``exec``."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def try_one(kind: Kind, case: object, number: int, seed: int) -> Outcome:
    """Run one case in this process."""
    assert callable(case)
    run = case(random.Random(f"{seed} {number}"))
    if run is None:
        return Outcome(number, UNWRITABLE)
    begin = time.perf_counter()
    try:
        run()
        result = ACCEPTED
    except kind.refusals as error:
        line = str(error)
        result = (
            REFUSED if len(line) <= 300 and line.isprintable() and error.remedy else f"not one line with a remedy: {line!r}"
        )
    except BaseException as error:  # noqa: BLE001 - PanicException of tokenizers is none of Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        result = f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
    return Outcome(number, result, time.perf_counter() - begin, peak_mb())


def outcomes(name: str, count: int, seed: int, first: int = 0) -> Iterator[Outcome]:
    """Run cases in this process."""
    kind = KINDS[name]
    with kind.cases() as case:
        for number in range(first, first + count):
            yield try_one(kind, case, number, seed)


def fuzz(name: str, count: int, seed: int = 20) -> Report:
    """Run cases in this process: the tests call it."""
    report = Report(name)
    for outcome in outcomes(name, count, seed):
        report.add(outcome)
    report.failures = [line for line in report.failures if "the process needs" not in line]  # of the other tests
    return report


# -- in child processes -----------------------------------------------------------------------------------------------


def supervise(name: str, count: int, seed: int, first: int = 0) -> Report:
    """Run cases in child processes, so that one which ends its process or hangs is counted and does not stop the others."""
    report, number, end = Report(name), first, first + count
    while number < end:
        command = [sys.executable, __file__, name, "--worker", "--first", str(number), "--count", str(end - number)]
        child = subprocess.Popen([*command, "--seed", str(seed)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_forward, args=(child.stdout, lines), daemon=True).start()
        limit, started = _START_SECONDS, False
        while True:
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                report.add(Outcome(number, f"still running after {limit:.0f} s"))
                break
            if not line:
                code = child.wait()
                if number < end:
                    report.add(Outcome(number, f"the process ended with {code}"))
                break
            if started:
                report.add(Outcome(**json.loads(line)))
                number += 1
            limit, started = MOST_SECONDS + 5, True
        child.kill()
        child.wait()
        number += 1
        if not started:
            break
    return report


def _forward(stream: Iterator[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def worker(name: str, count: int, seed: int, first: int) -> None:
    """What a child does: a line when it is ready, and one for each case."""
    out = sys.stdout
    sys.stdout = sys.stderr
    kind = KINDS[name]
    with kind.cases() as case:
        print("ready", file=out, flush=True)
        for number in range(first, first + count):
            print(json.dumps(asdict(try_one(kind, case, number, seed))), file=out, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.kind, options.count, options.seed, options.first)
        return 0
    begin = time.perf_counter()
    report = supervise(options.kind, options.count, options.seed, options.first)
    print(f"{report.line()}; {time.perf_counter() - begin:.0f} s")
    for failure in report.failures[:50]:
        print(failure)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
