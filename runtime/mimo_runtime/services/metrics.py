"""Counters and times for Prometheus. Labels are routes, stages and statuses, never anything of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..results.answer import Answer
from .host import ModelHost
from .jobs import Jobs
from .store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """What one service counts, in a registry of its own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry()
        names = ["method", "route", "status"]
        self._requests = Counter("mimo_http_requests", "Requests by route and status.", names, registry=self.registry)
        self._seconds = Histogram(
            "mimo_http_request_seconds", "Time from the headers to the end of the response.", ["route"],
            registry=self.registry, buckets=_SECONDS,
        )  # fmt: skip
        self._answers = Counter("mimo_answers", "Answers by their end.", ["finish_reason", "refusal"], registry=self.registry)
        self._stages = Histogram(
            "mimo_stage_seconds", "Time of each stage of an answer.", ["stage"], registry=self.registry, buckets=_SECONDS
        )

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A response was sent."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_answer(self, answer: Answer) -> None:
        """The model answered."""
        reason, refusal = answer.finish_reason or "none", answer.refusal.reason if answer.refusal else "none"
        self._answers.labels(reason, refusal).inc()
        for stage, ms in answer.timings.items():
            self._stages.labels(stage).observe(ms / 1000)

    def add_state(self, host: ModelHost, jobs: Jobs, store: ImageStore) -> None:
        """Gauges that are read when they are asked for."""
        self.registry.register(_State(host, jobs, store))

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class _State:
    """A collector of Prometheus."""

    def __init__(self, host: ModelHost, jobs: Jobs, store: ImageStore) -> None:
        self._host, self._jobs, self._store = host, jobs, store

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        gauges = {
            "mimo_jobs_running": ("Requests that compute.", self._jobs.gate.running),
            "mimo_jobs_waiting": ("Requests that wait for their turn.", self._jobs.gate.waiting),
            "mimo_store_bytes": ("Bytes of stored files and encodings.", self._store.nbytes),
            "mimo_store_images": ("Stored files.", len(self._store.files)),
            "mimo_model_generation": ("Models that have been in service.", self._host.generation),
        }  # fmt: skip
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value)
