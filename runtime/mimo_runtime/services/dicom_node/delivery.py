"""Sends results, with retries, until the receiver has them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...clinical.study import uid_of
from ...utils.log import LOGGER
from .commitment import Commitments, request_of
from .ledger import DELIVERED, SENT, UNDELIVERED, Job, Ledger, Report
from .metrics import NodeMetrics
from .network.sending import SendError, request_commitment, send_objects, send_report, verify_receiver
from .network.stow import store_objects
from .settings import NodeSettings, Peer
from .storage import Storage

if TYPE_CHECKING:
    from pynetdicom.events import Event

LOG = LOGGER.getChild("node")


class Delivery:
    """Sends what the ledger says.

    Args:
        settings: of the node.
        ledger: of the results.
        storage: that has their files.
        commitments: requests and reports.
        metrics: counts.
        on_report: handles a report about storage commitment that comes on the association of its request.

    Attributes:
        return_to: where results go from now on.
    """

    def __init__(
        self,
        settings: NodeSettings,
        ledger: Ledger,
        storage: Storage,
        commitments: Commitments,
        metrics: NodeMetrics,
        on_report: Callable[[Event], object],
    ) -> None:
        self.settings, self.ledger, self.storage = settings, ledger, storage
        self.return_to = settings.return_to
        self.commitments, self.metrics, self.on_report = commitments, metrics, on_report

    def verify(self) -> None:
        """Log whether the receiver answers: a wrong title or address shows at the start."""
        receiver = self.return_to
        if not isinstance(receiver, Peer):
            return
        try:
            verify_receiver(self.settings, receiver)
        except SendError as error:
            LOG.warning("the receiver does not answer C-ECHO: %s", error.what)
        else:
            LOG.info("the receiver answers C-ECHO")

    def step(self, should_stop: Callable[[], bool]) -> None:
        """Send all that is to be sent now."""
        for job in self.ledger.to_deliver():
            if should_stop():
                return
            self._attempt(job)
        for report in self.ledger.reports():
            if should_stop():
                return
            self._report(report)

    def _attempt(self, job: Job) -> None:
        try:
            if job.state != SENT:
                self._send(job)
            if self.settings.commit:
                self._request_commitment(job)
                return
        except SendError as error:
            self._postpone(job, error.what)
        except Exception as error:
            self._postpone(job, f"failure ({type(error).__name__})")
        else:
            self.ledger.set_state(job.job, DELIVERED)
            self.storage.remove_result(job.job)
            self.metrics.count_delivery("delivered")
            LOG.info("a result is delivered")

    def _send(self, job: Job) -> None:
        """Send the objects of a job that were not taken yet. Raises SendError."""
        folder, receiver = self.storage.results / job.job, self.return_to
        objects = [one for one in self.ledger.objects(job.job) if not one.is_sent]

        def sent(file: Path) -> None:
            self.ledger.set_sent(job.job, file.name)

        if objects and isinstance(receiver, Peer):
            send_objects(self.settings, receiver, [folder / one.file for one in objects], sent)
        elif objects and not isinstance(receiver, Peer):
            store_objects(receiver, [(folder / one.file, one.instance) for one in objects], sent)

    def _request_commitment(self, job: Job) -> None:
        """Ask the receiver to confirm that it keeps the objects. Raises SendError."""
        if self._is_over(job):
            self._give_up(job, "storage was not committed")
            return
        receiver = self.return_to
        assert isinstance(receiver, Peer)
        transaction = uid_of(f"{job.job} {time.time_ns()} {random.getrandbits(64)}")
        if not self.ledger.set_requested(job.job, transaction, time.time() + self.settings.commit_wait_s):
            return
        instances = [(one.sop_class, one.instance) for one in self.ledger.objects(job.job)]
        with self.commitments.expecting(transaction) as reported:
            request_commitment(self.settings, receiver, request_of(transaction, instances), self.on_report, reported)

    def _postpone(self, job: Job, reason: str) -> None:
        if self._is_over(job):
            self._give_up(job, reason)
            return
        self.metrics.count_delivery("postponed")
        LOG.warning("a result was not delivered, and is tried again: %s", reason)
        self.ledger.postpone(job.job, time.time() + self.settings.wait_s(job.attempts))

    def _give_up(self, job: Job, reason: str) -> None:
        self.storage.keep_undelivered(job.job)
        self.ledger.set_state(job.job, UNDELIVERED)
        self.metrics.count_delivery("given_up")
        LOG.error("a result is in the folder undelivered: %s", reason)

    def _is_over(self, job: Job) -> bool:
        return time.time() - job.answered > self.settings.retry_for_s

    def _report(self, report: Report) -> None:
        """Send a report that another node waits for."""
        peer = self.settings.peer(report.aet)
        try:
            if peer is None:
                raise SendError("the caller has no known address")
            kind, content = self.commitments.report_of(report)
            send_report(self.settings, peer, kind, content)
        except Exception as error:
            if time.time() - report.asked > self.settings.retry_for_s:
                LOG.error("a report about storage commitment was given up: %s", type(error).__name__)
                self.ledger.drop_report(report.transaction_uid)
                return
            self.ledger.postpone_report(report.transaction_uid, time.time() + self.settings.wait_s(report.attempts))
        else:
            self.ledger.drop_report(report.transaction_uid)
