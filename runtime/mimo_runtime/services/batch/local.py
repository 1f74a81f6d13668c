"""Workers of this process: threads that share one model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from .answering import Outcome
from .items import BatchItem


def answer_in_threads(answer: Callable[[BatchItem], Outcome], items: Iterable[BatchItem], jobs: int) -> Iterator[Outcome]:
    """The outcomes in the order in which they are complete. At most ``2 * jobs`` items are under way or wait to be taken."""
    waiting = deque(items)
    with ThreadPoolExecutor(jobs, "mimo-batch") as pool:
        running: set[Future[Outcome]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < 2 * jobs:
                    running.add(pool.submit(answer, waiting.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
