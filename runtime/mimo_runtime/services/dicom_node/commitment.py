"""Storage commitment (PS3.4 annex J), as the node that asks for it and as the one that answers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...utils.log import LOGGER
from .ledger import DELIVERED, Ledger, Report
from .metrics import NodeMetrics
from .settings import NodeSettings, Peer
from .storage import Storage

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SUCCESS, FAILURE, NO_SUCH_OBJECT, INVALID = 0x0000, 0x0110, 0x0112, 0x0115
#: Types of events: all objects are committed, or some are not.
ALL_COMMITTED, SOME_FAILED = 1, 2
_MOST_INSTANCES = 50_000
LOG = LOGGER.getChild("node")


class Commitments:
    """Requests and reports.

    Args:
        settings: of the node.
        ledger: of the results, and of the reports that are owed.
        storage: of the received objects.
        metrics: counts.
    """

    def __init__(self, settings: NodeSettings, ledger: Ledger, storage: Storage, metrics: NodeMetrics) -> None:
        self.settings, self.ledger, self.storage, self.metrics = settings, ledger, storage, metrics
        self._expected: dict[str, threading.Event] = {}

    @contextlib.contextmanager
    def expecting(self, transaction: str) -> Iterator[threading.Event]:
        """An event that is set when the report of a transaction is taken."""
        self._expected[transaction] = event = threading.Event()
        try:
            yield event
        finally:
            del self._expected[transaction]

    def take_request(self, aet: str, request: Dataset) -> int:
        """Note a request of another node; the report follows on an association of its own.

        Returns:
            A status; a failure where the node is not known by an address.
        """
        transaction = str(request.get("TransactionUID") or "")
        instances = _references(request, "ReferencedSOPSequence")
        if not transaction or not 0 < len(instances) <= _MOST_INSTANCES:
            return INVALID
        if self.settings.peer(aet) is None:
            LOG.warning("a request for storage commitment was refused: the caller has no known address")
            return FAILURE
        self.ledger.owe_report(transaction, aet, instances)
        return SUCCESS

    def report_of(self, report: Report) -> tuple[int, Dataset]:
        """The type of the event and its content: what is held now is committed."""
        held = [(sop, uid) for sop, uid in report.instances if self.storage.has_instance(uid)]
        missing = [entry for entry in report.instances if entry not in held]
        content = _data_set(report.transaction_uid, "ReferencedSOPSequence", held)
        if not missing:
            return ALL_COMMITTED, content
        failed = _items(missing)
        for item in failed:
            item.FailureReason = NO_SUCH_OBJECT
        content.FailedSOPSequence = failed
        return SOME_FAILED, content

    def take_report(self, aet: str, report: Dataset) -> int:
        """Note what the receiver of the results says about them.

        Returns:
            A status; a failure for an unknown transaction or another sender.
        """
        receiver, transaction = self.settings.return_to, str(report.get("TransactionUID") or "")
        job = self.ledger.job_of(transaction)
        if job is None or not isinstance(receiver, Peer) or aet != receiver.aet:
            return INVALID
        committed = {uid for _, uid in _references(report, "ReferencedSOPSequence")}
        missing = [one.instance for one in self.ledger.objects(job.job) if one.instance not in committed]
        if missing:
            LOG.warning("the receiver does not have %d objects of a result", len(missing))
            self.ledger.set_unsent(job.job, missing, time.time() + self.settings.wait_s(job.attempts))
            self.metrics.count_delivery("postponed")
        else:
            self.ledger.set_state(job.job, DELIVERED)
            self.storage.remove_result(job.job)
            self.metrics.count_delivery("delivered")
            LOG.info("a result is committed")
        if (expected := self._expected.get(transaction)) is not None:
            expected.set()
        return SUCCESS


def request_of(transaction_uid: str, instances: Iterable[tuple[str, str]]) -> Dataset:
    """The request about ``(SOP class, SOP instance)``."""
    return _data_set(transaction_uid, "ReferencedSOPSequence", list(instances))


def _data_set(transaction_uid: str, keyword: str, instances: Sequence[tuple[str, str]]) -> Dataset:
    from pydicom.dataset import Dataset

    data = Dataset()
    data.TransactionUID = transaction_uid
    if instances:
        setattr(data, keyword, _items(instances))
    return data


def _items(instances: Sequence[tuple[str, str]]) -> list[Dataset]:
    from pydicom.dataset import Dataset

    items = []
    for sop_class, uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    return items


def _references(data: Dataset, keyword: str) -> list[tuple[str, str]]:
    items = data.get(keyword) or ()
    return [(str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or "")) for item in items]
