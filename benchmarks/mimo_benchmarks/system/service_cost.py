"""What the HTTP service costs beside the Python call, and how it behaves under many callers.

    python -m mimo_benchmarks.system.service_cost BUNDLE --seconds 120

The bundle is loaded in this process, and by ``mimo-run serve`` in another one. Both take turns in short blocks, so that other
work on the machine counts in both: single asks, then eight threads in this process against sixteen clients of the service.
"""

from __future__ import annotations

import http.client
import io
import itertools
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypedDict

import click
from PIL import Image

from mimo_runtime.cli.app import Program
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.errors import VerificationError
from mimo_runtime.utils.tables import table

from ..report import machine
from ..report.percentiles import Percentiles, percentiles
from ..report.result import BenchmarkResult, Figure, closing_lines
from ..request import KINDS, Request, RequestKind
from .measured_bundle import describe_bundle, distributions
from .pool import ask, make_pool

if TYPE_CHECKING:
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.pipeline import Mimo

#: Goals of the project: milliseconds of overhead; throughput against threads in one process; p99 against p50; growth of memory.
OVERHEAD_MS, THROUGHPUT, TAIL, GROWTH = 8.0, 0.9, 3.0, 1.05
_LOAD_BLOCKS = 6


class ServiceCost(TypedDict):
    """The details of the result. ``statuses`` counts responses under load; memory is that of the server, in MB.

    Processor time is the mean of an ask in both processes together. It hardly depends on other programs.
    """

    kind: str
    asks: int
    python_ms: Percentiles
    http_ms: Percentiles
    python_cpu_ms: float | None
    http_cpu_ms: float | None
    threads_asks_per_s: float
    clients_asks_per_s: float
    clients_ms: Percentiles
    statuses: dict[str, int]
    memory_first_mb: float
    memory_last_mb: float


class Server:
    """``mimo-run serve`` on a free port of this machine. Use it as a context."""

    def __init__(self, bundle: Path, threads: int) -> None:
        command = [sys.executable, "-m", "mimo_runtime", "serve", str(bundle), "--port", "0", "--log-level", "error"]
        self.process = subprocess.Popen(
            [*command, "--threads", str(threads)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on"):
            raise VerificationError(
                f"the service did not start: {self.process.stderr.read().strip()}", "Install the extra server"
            )
        self.port = int(line.rpartition(":")[2])

    def __enter__(self) -> Server:
        client = Client(self.port)
        while client.get("/ready") != 200:
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)

    @property
    def memory_mb(self) -> float:
        """Resident memory now."""
        return machine.process_memory(self.process.pid)["resident_mb"]


class Client:
    """One connection that stays open."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def send(self, method: str, path: str, body: bytes | None, kind: str) -> tuple[int, bytes]:
        """Status and content of the response."""
        self.connection.request(method, path, body, {"Content-Type": kind} if body else {})
        reply = self.connection.getresponse()
        return reply.status, reply.read()

    def get(self, path: str) -> int:
        """The status."""
        return self.send("GET", path, None, "")[0]

    def upload(self, request: Request) -> str:
        """Store an image, and return its id."""
        file = io.BytesIO()
        Image.fromarray(request.pixels).save(file, "PNG")
        status, content = self.send("POST", "/v1/images", file.getvalue(), "image/png")
        if status != 201:
            raise VerificationError(f"the service answered {status} to an image", "See its message: mimo-run serve")
        return str(json.loads(content)["id"])


@dataclass
class _Block:
    """Asks of many callers for some seconds."""

    seconds: float = 0.0
    times_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class _Question:
    """Questions about one image, for Python and for HTTP. Each has another box: answers to repeated prompts are cached.

    Args:
        image_id: of the image in the service.
    """

    def __init__(self, mimo: Mimo, request: Request, image_id: str, kind: RequestKind) -> None:
        self.mimo, self.request, self.kind = mimo, request, kind
        self.scan, self.image_id = mimo.open(request.pixels), image_id

    def _boxes(self, turn: int) -> list[tuple[float, ...]]:
        return [(left + turn % 97, top + turn // 97 % 97, right, bottom) for left, top, right, bottom in self.request.boxes]

    def ask(self, turn: int) -> int:
        """Ask in this process."""
        ask(self.mimo, replace(self.request, boxes=tuple(self._boxes(turn))), self.kind, self.scan)
        return 200

    def post(self, client: Client, turn: int) -> tuple[int, bytes]:
        """Ask the service, and receive its answer."""
        fields = {
            "image": self.image_id, "text": self.request.text, "boxes": self._boxes(turn), "masks": self.kind.masks,
            "text_answer": self.kind.text,
        }  # fmt: skip
        return client.send("POST", "/v1/ask", json.dumps(fields).encode(), "application/json")

    def post_and_read(self, client: Client, turn: int) -> int:
        """As :meth:`post`, and parse the answer with its masks."""
        status, content = self.post(client, turn)
        json.loads(content)
        return status


def measure(
    mimo: Mimo,
    bundle: Bundle,
    server: Server,
    requests: Sequence[Request],
    *,
    kind: str,
    asks: int,
    seconds: float,
    threads: int,
) -> BenchmarkResult:
    """Measure the cost of a single ask without a text about a known image, and then the service under load.

    Args:
        mimo: the bundle, loaded with as many threads as the server.
        kind: of the requests under load, a key of ``request.KINDS``.
        asks: single asks of each side.
        seconds: of load on each side.
    """
    described = machine.describe(distributions(bundle), threads)
    client = Client(server.port)
    ids = [client.upload(request) for request in requests]
    single = _Question(mimo, requests[0], ids[0], KINDS["second_ask_mask_only"])
    calls = (single.ask, lambda turn: single.post_and_read(client, turn))
    python_ms, http_ms, cpu_ms = _alternate(calls, asks, server.process.pid)
    questions = [_Question(mimo, request, image_id, KINDS[kind]) for request, image_id in zip(requests, ids)]
    inside, outside, turns = _Block(), _Block(), itertools.count(asks)
    memory = []
    for _ in range(_LOAD_BLOCKS):
        clients = [Client(server.port) for _ in range(16)]

        def post(number: int, clients: list[Client] = clients) -> int:
            return questions[number % len(questions)].post(clients[number], next(turns))[0]

        _run(inside, 8, lambda number: questions[number % len(questions)].ask(next(turns)), seconds / _LOAD_BLOCKS)
        _run(outside, 16, post, seconds / _LOAD_BLOCKS)
        memory.append(server.memory_mb)
    machine.finish(described)
    details: ServiceCost = {
        "kind": kind,
        "asks": asks,
        "python_ms": percentiles(python_ms),
        "http_ms": percentiles(http_ms),
        "python_cpu_ms": cpu_ms[0],
        "http_cpu_ms": cpu_ms[1],
        "threads_asks_per_s": round(len(inside.times_ms) / inside.seconds, 2),
        "clients_asks_per_s": round(outside.statuses[200] / outside.seconds, 2),
        "clients_ms": percentiles(outside.times_ms),
        "statuses": {str(status): count for status, count in sorted(outside.statuses.items())},
        "memory_first_mb": round(memory[0], 1),
        "memory_last_mb": round(memory[-1], 1),
    }
    difference = median(after - before for before, after in zip(python_ms, http_ms))
    return BenchmarkResult("service-cost", describe_bundle(bundle), described, _figures(details, difference), details)


def _alternate(
    calls: tuple[Callable[[int], int], Callable[[int], int]], times: int, server: int
) -> tuple[list[float], list[float], list[float | None]]:
    """Milliseconds of two calls that take turns, and the processor time of each; the one that begins alternates, too."""
    for call in (*calls, *calls):
        call(-1)
    measured: tuple[list[float], list[float]] = ([], [])
    cpu = [0.0, 0.0]
    for turn in range(times):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            used, start = _cpu_seconds(server), time.perf_counter()
            calls[index](turn)
            measured[index].append(1000 * (time.perf_counter() - start))
            cpu[index] += _cpu_seconds(server) - used
    return *measured, [round(1000 * seconds / times, 2) if seconds else None for seconds in cpu]


def _cpu_seconds(server: int) -> float:
    """Of this process and the server."""
    return time.process_time() + (machine.cpu_seconds(server) or 0)


def _run(block: _Block, callers: int, call: Callable[[int], int], seconds: float) -> None:
    """``callers`` threads ask for some seconds, each with its own number."""
    end, errors = time.perf_counter() + seconds, list[Exception]()

    def caller(number: int) -> None:
        try:
            while (start := time.perf_counter()) < end:
                status = call(number)
                block.times_ms.append(1000 * (time.perf_counter() - start))
                block.statuses[status] += 1
        except Exception as error:  # raised below, in the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    block.seconds += time.perf_counter() - start
    if errors:
        raise errors[0]


def _figures(details: ServiceCost, difference_ms: float) -> list[Figure]:
    others = sum(count for status, count in details["statuses"].items() if status not in ("200", "429"))
    clients = details["clients_ms"]
    throughput = details["clients_asks_per_s"] / details["threads_asks_per_s"]
    growth = details["memory_last_mb"] / details["memory_first_mb"]
    return [
        Figure("HTTP beside the Python call", round(difference_ms, 2), "ms", "lower", OVERHEAD_MS),
        Figure("16 clients against 8 threads", round(throughput, 3), "x", "higher", THROUGHPUT),
        Figure("p99 against p50 of 16 clients", round(clients["p99_ms"] / clients["p50_ms"], 2), "x", "lower", TAIL),
        Figure("responses that are neither 200 nor 429", float(others), "", "lower", 0.0),
        Figure("memory after the last block against the first", round(growth, 3), "x", "lower", GROWTH),
    ]


@click.command(cls=Program)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--seconds", default=120.0, show_default=True, type=click.FloatRange(1), help="Load on each side.")
@click.option("--asks", default=60, show_default=True, type=click.IntRange(5), help="Single asks of each side.")
@click.option("--images", default=4, show_default=True, type=click.IntRange(1, 16), help="Phantoms that are asked about.")
@click.option("--kind", default="second_ask", show_default=True, type=click.Choice(sorted(KINDS)), help="Requests under load.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads per operator, both sides.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: Path, seconds: float, asks: int, images: int, kind: str, threads: int, as_json: bool) -> None:
    """Compare asks over HTTP with asks in Python, one at a time and by many callers."""
    from mimo_runtime.bundle.archive import Bundle
    from mimo_runtime.pipeline import Mimo

    opened = Bundle.open(bundle)
    requests = make_pool(opened, boxes=[(150, 150, 350, 350)], count=images)
    with Mimo.load(opened, threads=threads, cache_images=2 * images) as mimo, Server(bundle, threads) as server:
        result = measure(mimo, opened, server, requests, kind=kind, asks=asks, seconds=seconds, threads=threads)
    if as_json:
        print_json(result.to_dict(), indent=1)
    else:
        rows = [(figure.name, f"{figure.value:g} {figure.unit}".strip(), f"goal {figure.goal:g}") for figure in result.figures]
        click.echo("\n".join([table(rows), *closing_lines(result)]))


if __name__ == "__main__":
    command.main(prog_name="python -m mimo_benchmarks.system.service_cost")
