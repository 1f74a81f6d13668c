"""Counters of a node for Prometheus. Labels are states and reasons, never anything of a request or of a sender."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class NodeMetrics:
    """What one node counts, in a registry of its own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry()
        text = "Received objects by what became of them."
        self._objects = Counter("mimo_node_objects", text, ["outcome"], registry=self.registry)
        text = "Associations by their end."
        self._associations = Counter("mimo_node_associations", text, ["outcome"], registry=self.registry)
        text = "Attempts to deliver a result by their end."
        self._deliveries = Counter("mimo_node_deliveries", text, ["outcome"], registry=self.registry)
        text = "Time to answer about a series and to write its objects."
        self._seconds = Histogram("mimo_node_answer_seconds", text, registry=self.registry, buckets=_SECONDS)

    def count_object(self, outcome: str) -> None:
        """An object came: stored, repeated, own, no_image, full, damaged or failed."""
        self._objects.labels(outcome).inc()

    def count_association(self, outcome: str) -> None:
        """An association was accepted, rejected or aborted."""
        self._associations.labels(outcome).inc()

    def count_delivery(self, outcome: str) -> None:
        """A result was delivered, postponed or given up."""
        self._deliveries.labels(outcome).inc()

    def observe_answer(self, seconds: float) -> None:
        """A series was answered."""
        self._seconds.observe(seconds)

    def add_state(self, gauges: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        """Gauges that are read when they are asked for: description and value by name."""
        self.registry.register(_State(gauges))

    def text(self) -> bytes:
        """All of it, in the text format of Prometheus 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class _State:
    """A collector of Prometheus."""

    def __init__(self, gauges: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        for name, (text, value) in self._gauges().items():
            yield GaugeMetricFamily(name, text, value)
