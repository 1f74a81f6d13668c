"""A node: its server, its queue, the thread that answers and the one that sends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from ...clinical.dicom.objects import highdicom
from ...errors import MimoError, RequestError
from ...utils.log import LOGGER
from ..host import ModelHost
from ..logs import failure_fields
from .answering import Answering
from .arrivals import Arrivals
from .commitment import Commitments
from .delivery import Delivery
from .ledger import Ledger
from .metrics import NodeMetrics
from .receiver import Receiver
from .rules import Rule, check_rules
from .settings import NodeSettings, Peer, WebStore
from .status import StatusServer
from .storage import Storage

#: Seconds between two sweeps of what is no longer needed, and the longest sleep of a thread.
_SWEEP_S, _SLEEP_S = 2.0, 5.0
#: Seconds without a turn of the thread that accepts connections, after which the node counts as stuck.
_SILENT_S = 5.0
LOG = LOGGER.getChild("node")


class Node:
    """Receives, answers and returns, until it is stopped.

    Args:
        host: of the model; it is started by the node.
        rules: what is asked about what.
        settings: limits and addresses.

    Raises:
        RequestError: the data folder, or a port, cannot be used.
    """

    def __init__(self, host: ModelHost, rules: Sequence[Rule], settings: NodeSettings) -> None:
        self.host, self.rules, self.settings = host, tuple(rules), settings
        self.storage = Storage(settings.data, settings.max_data, settings.min_free)
        self.ledger = Ledger(settings.data / "ledger.sqlite")
        self.storage.clean_results(self.ledger.undelivered_results())
        self.ledger.request_again()
        self.metrics = NodeMetrics()
        self.metrics.add_state(self._gauges)
        self.arrivals = Arrivals(settings.quiet_s, self.storage.studies())
        self.commitments = Commitments(settings, self.ledger, self.storage, self.metrics)
        self.receiver = Receiver(settings, self.storage, self.arrivals, self.ledger, self.commitments, self.metrics, self._wake)
        self.delivery = Delivery(settings, self.ledger, self.storage, self.commitments, self.metrics, self.receiver.on_report)
        self.answering = Answering(rules, host, self.storage, self.ledger, self.metrics, self._is_over, settings.retry_s)
        self._work, self._ended = threading.Condition(), threading.Event()
        self._stopping, self._over = threading.Event(), threading.Event()
        self._planned: dict[str, float] = {}
        self.problem: MimoError | None = None
        self.status: StatusServer | None = None
        self._threads = [
            threading.Thread(target=self._loop, args=(self._answer_step, self._start_model), name="mimo-answering"),
            threading.Thread(target=self._loop, args=(self._send_step, self._verify_receiver), name="mimo-sending"),
        ]

    # -- start and stop ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the ports, and begin. Raises RequestError where a port cannot be opened, or objects cannot be written."""
        highdicom()
        self.receiver.start()
        if self.settings.status_port is not None:
            try:
                self.status = StatusServer(self.settings.status_port, self._pages())
            except RequestError:
                self.receiver.close(0)
                raise
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take nothing more, end what runs within ``grace_s``, and keep the rest of the queue."""
        deadline = time.monotonic() + self.settings.grace_s
        self._stopping.set()
        self._wake()
        self.receiver.close(min(5.0, self.settings.grace_s))
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self.status is not None:
            self.status.close()
        self.host.close()
        self.ledger.close()
        self.storage.close()

    def reload(self, rules: Sequence[Rule], return_to: Peer | WebStore | None = None) -> None:
        """Serve the bundle and the TLS files as they are now, and other rules; what is there serves until all of them are good.

        Args:
            rules: what is asked about what.
            return_to: the receiver with its header of authorization; None keeps it.

        Raises:
            RequestError: the TLS files, or the rules with the bundle, cannot be used; nothing changes.
            BundleError, EngineError, VerificationError: likewise, of the bundle.
        """
        tls = self.receiver.read_tls()
        self.host.swap(check=lambda mimo: check_rules(rules, mimo.config))
        self.receiver.use_tls(tls)
        self.rules = tuple(rules)
        self.answering.use_rules(rules)
        if return_to is not None:
            self.delivery.return_to = return_to
        LOG.info("bundle, rules, credentials and TLS were loaded again")

    @property
    def is_ready(self) -> bool:
        """Whether a model is in service that fits the rules."""
        return self.host.generation > 0 and self.problem is None

    @property
    def is_alive(self) -> bool:
        """Whether the threads that answer and send are there, and the port takes connections."""
        return all(thread.is_alive() for thread in self._threads) and self.receiver.silent_s < _SILENT_S

    def wait_failed(self, seconds: float) -> bool:
        """Wait until the model cannot be served, at most so long; ``problem`` says why."""
        return self._ended.wait(seconds)

    def send_undelivered(self) -> int:
        """Send again what is in the folder ``undelivered``; returns the number of results. Before :meth:`start`."""
        jobs = self.ledger.retry_undelivered()
        for job in jobs:
            self.storage.take_undelivered(job)
        return len(jobs)

    def _is_over(self) -> bool:
        return self._over.is_set()

    def _wake(self) -> None:
        with self._work:
            self._work.notify_all()

    # -- threads -----------------------------------------------------------------------------------------------------------

    def _loop(self, step: Callable[[], float], begin: Callable[[], bool]) -> None:
        """Run a step again and again, if the begin is true; it returns the seconds until there may be more work."""
        if not begin():
            return
        while not self._stopping.is_set():
            try:
                wait = step()
            except Exception as error:
                LOG.error("failure", extra={"fields": failure_fields(error)})
                wait = 1.0
            with self._work:
                if not self._stopping.is_set() and wait > 0:
                    self._work.wait(min(wait, _SLEEP_S))

    def _start_model(self) -> bool:
        """Load the model, and check the rules with it."""
        self.host.start()
        try:
            if self.host.problem:
                raise MimoError(self.host.problem)
            with self.host.use() as served:
                check_rules(self.rules, served.mimo.config)
        except MimoError as error:
            self.problem = error
            self._ended.set()
            return False
        return True

    def _verify_receiver(self) -> bool:
        try:
            self.delivery.verify()
        except Exception as error:
            LOG.error("failure", extra={"fields": failure_fields(error)})
        return True

    def _answer_step(self) -> float:
        """Plan complete studies, then answer about one series."""
        for study in self.arrivals.take_complete():
            self.answering.plan(study)
            self._planned[study] = time.monotonic()
        if self.storage.is_full:
            LOG.error("no series is answered: the disk of the data folder is full")
            return _SLEEP_S
        job = self.ledger.next_waiting()
        if job is None:
            self._sweep()
            return self.arrivals.seconds_left() or _SWEEP_S
        if not self.answering.run(job):
            self.arrivals.note(job.study)
        self._wake()
        return 0.0

    def _send_step(self) -> float:
        """Send results and reports that are due."""
        self.delivery.step(self._stopping.is_set)
        due = self.ledger.next_delivery()
        return _SLEEP_S if due is None else max(0.02, due - time.time())

    def _sweep(self) -> None:
        """Remove received objects that are answered and old, and forget jobs that ended long ago."""
        now = time.monotonic()
        for study, planned in list(self._planned.items()):
            is_over = now - planned >= self.settings.keep_s and not self.ledger.is_waiting(study)
            if is_over and self.arrivals.unless_arriving(study, partial(self.storage.remove_study, study)):
                del self._planned[study]
        present = set(self.storage.studies())
        for job in self.ledger.ended_before(time.time() - self.settings.remember_s):
            if job.study not in present:
                self.ledger.drop(job.job)

    # -- state -------------------------------------------------------------------------------------------------------------

    def _gauges(self) -> dict[str, tuple[str, float]]:
        counts = self.ledger.counts()
        return {
            **{f"mimo_node_jobs_{state}": (f"Series in the state {state}.", count) for state, count in counts.items()},
            "mimo_node_studies_arriving": ("Studies that are not complete.", len(self.arrivals)),
            "mimo_node_objects_held": ("Received objects on disk.", len(self.storage)),
            "mimo_node_data_bytes": ("Bytes of the data folder.", self.storage.nbytes),
            "mimo_node_open_associations": ("Associations of other nodes.", self.receiver.associations),
            "mimo_node_ready": ("1 with a model in service.", float(self.host.generation > 0)),
        }

    def _pages(self) -> dict[str, Callable[[], tuple[int, str, bytes]]]:
        def json_page(status: int, content: object) -> tuple[int, str, bytes]:
            return status, "application/json", json.dumps(content).encode()

        def ready() -> tuple[int, str, bytes]:
            return json_page(200 if self.is_ready else 503, {"status": "ready" if self.is_ready else "loading"})

        return {
            "/health": lambda: json_page(200, {"status": "ok"}),
            "/ready": ready,
            "/metrics": lambda: (200, "text/plain; version=0.0.4", self.metrics.text()),
        }
