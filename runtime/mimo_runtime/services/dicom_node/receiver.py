"""The server of a node: verification, storage, and both sides of storage commitment."""

from __future__ import annotations

import ssl
import threading
import time
from typing import TYPE_CHECKING, Protocol

from ...errors import ImageError, RequestError
from ...utils.log import LOGGER
from .arrivals import Arrivals
from .commitment import Commitments
from .headers import InstanceHeader, read_instance_header
from .ledger import Ledger
from .metrics import NodeMetrics
from .network.contexts import application_entity, server_context, supported_contexts
from .network.server import open_server
from .settings import NodeSettings
from .storage import QueueFullError, Storage

if TYPE_CHECKING:
    from pynetdicom.events import Event

SUCCESS = 0x0000
#: PS3.4 B.2.3: refused, out of resources; data set does not match the SOP class; cannot understand.
OUT_OF_RESOURCES, NO_MATCH, NOT_UNDERSTOOD, FAILURE = 0xA700, 0xA900, 0xC000, 0x0110
LOG = LOGGER.getChild("node")


class Wakes(Protocol):
    """Called when there may be work."""

    def __call__(self) -> None: ...


class Receiver:
    """Takes objects of other nodes.

    Args:
        settings: of the node.
        storage: where objects go.
        arrivals: what is noted about their studies.
        ledger: of the results, which are not taken back.
        commitments: answers about storage commitment.
        metrics: counts.
        wake: called after an object or a message came.
    """

    def __init__(
        self,
        settings: NodeSettings,
        storage: Storage,
        arrivals: Arrivals,
        ledger: Ledger,
        commitments: Commitments,
        metrics: NodeMetrics,
        wake: Wakes,
    ) -> None:
        self.settings, self.storage, self.arrivals, self.ledger = settings, storage, arrivals, ledger
        self.commitments, self.metrics, self.wake = commitments, metrics, wake
        self._received: dict[int, int] = {}  # bytes of the message that an association sends
        self._mutex = threading.Lock()
        self._tls: ssl.SSLContext | None = None
        self._turn = 0.0

    def start(self) -> None:
        """Open the port. Raises RequestError where it cannot be opened."""
        from pynetdicom import evt

        entity = application_entity(self.settings.aet)
        entity.supported_contexts = supported_contexts()
        entity.require_called_aet = True
        entity.require_calling_aet = list(self.settings.callers)
        entity.maximum_associations = self.settings.max_associations
        self.use_tls(self.read_tls())
        handlers = [
            (evt.EVT_C_ECHO, lambda event: SUCCESS), (evt.EVT_C_STORE, self.on_store),
            (evt.EVT_N_ACTION, self.on_action), (evt.EVT_N_EVENT_REPORT, self.on_report),
            (evt.EVT_DATA_RECV, self.on_data), (evt.EVT_CONN_CLOSE, self.on_close),
            (evt.EVT_ACCEPTED, lambda event: self._count("accepted")), (evt.EVT_ABORTED, lambda event: self._count("aborted")),
            (evt.EVT_REJECTED, self.on_rejected),
        ]  # fmt: skip
        self._entity = entity
        try:
            address = self.settings.host, self.settings.port
            self._server = open_server(entity, address, lambda: self._tls, handlers, self._note_turn)
        except OSError as error:
            remedy = "Choose another --host or --port"
            raise RequestError(f"the node cannot listen: {error.strerror or type(error).__name__}", remedy) from None
        self._note_turn()

    def read_tls(self) -> ssl.SSLContext | None:
        """TLS of the files as they are now. Raises RequestError where they cannot be used."""
        return None if self.settings.tls is None else server_context(self.settings.tls)

    def use_tls(self, context: ssl.SSLContext | None) -> None:
        """TLS of the next connections; those that are open keep theirs."""
        self._tls = context

    def _note_turn(self) -> None:
        self._turn = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the thread of the port last took, or looked for, a connection."""
        return time.monotonic() - self._turn

    @property
    def port(self) -> int:
        """The one that is open."""
        return int(self._server.server_address[1])

    @property
    def associations(self) -> int:
        """Those that are open."""
        return sum(1 for association in self._entity.active_associations if association.is_acceptor)

    def close(self, wait_s: float) -> None:
        """Take no more associations; those that are open may end in the time, and are aborted after it."""
        self._server.shutdown()
        deadline = time.monotonic() + wait_s
        open_ones = [one for one in self._entity.active_associations if one.is_acceptor]
        for association in open_ones:
            if association.is_established:
                association.join(max(0.0, deadline - time.monotonic()))
        for association in open_ones:
            if association.is_alive():
                association.abort()

    # -- messages ----------------------------------------------------------------------------------------------------------

    def on_store(self, event: Event) -> int:
        """Keep an object, and answer when it is safe; what is no image of others is taken and left out."""
        self._begin_message(event)
        try:
            status, outcome = self._store(event)
        except QueueFullError:
            status, outcome = OUT_OF_RESOURCES, "full"
            LOG.error("an object was refused: the data folder has no room")
        except OSError as error:
            status, outcome = OUT_OF_RESOURCES, "full"
            LOG.error("an object was not written: %s", error.strerror or type(error).__name__)
        except ImageError:
            status, outcome = NOT_UNDERSTOOD, "damaged"
        except Exception as error:
            status, outcome = FAILURE, "failed"
            LOG.error("an object was not stored: %s", type(error).__name__)
        self.metrics.count_object(outcome)
        return status

    def _store(self, event: Event) -> tuple[int, str]:
        data = event.encoded_dataset()
        header = read_instance_header(data)
        named = [str(getattr(event.request, name, "")) for name in ("AffectedSOPClassUID", "AffectedSOPInstanceUID")]
        if named != [header.sop_class, header.instance]:
            return NO_MATCH, "damaged"
        if self._is_own(header):
            return SUCCESS, "own"
        if not header.is_image:
            return SUCCESS, "no_image"
        # Noted first: a study that arrives is not removed, and not complete.
        self.arrivals.note(self.storage.key("study", header.study), id(event.assoc))
        is_new = self.storage.store(header, data)
        self.wake()
        return SUCCESS, "stored" if is_new else "repeated"

    def _is_own(self, header: InstanceHeader) -> bool:
        return header.is_own or self.ledger.is_result(header.instance)

    def on_action(self, event: Event) -> tuple[int, None]:
        """Another node asks for storage commitment."""
        self._begin_message(event)
        try:
            status = self.commitments.take_request(_other_side(event), event.action_information)
        except Exception as error:
            LOG.error("a request for storage commitment failed: %s", type(error).__name__)
            status = FAILURE
        self.wake()
        return status, None

    def on_report(self, event: Event) -> tuple[int, None]:
        """Another node reports about the results that it has."""
        self._begin_message(event)
        try:
            status = self.commitments.take_report(_other_side(event), event.event_information)
        except Exception as error:
            LOG.error("a report about storage commitment failed: %s", type(error).__name__)
            status = FAILURE
        self.wake()
        return status, None

    def _begin_message(self, event: Event) -> None:
        """Count the bytes of an association anew."""
        with self._mutex:
            if id(event.assoc) in self._received:
                self._received[id(event.assoc)] = 0

    # -- associations ------------------------------------------------------------------------------------------------------

    def on_data(self, event: Event) -> None:
        """Abort an association that sends more than an object may have."""
        with self._mutex:
            total = self._received[id(event.assoc)] = self._received.get(id(event.assoc), 0) + len(event.data)
        if total > self.settings.max_instance:
            LOG.warning("an association was aborted: it sent more than --max-object")
            event.assoc.abort(block=False)

    def on_close(self, event: Event) -> None:
        """An association ended."""
        with self._mutex:
            self._received.pop(id(event.assoc), None)
        self.arrivals.release(id(event.assoc))
        self.wake()

    def on_rejected(self, event: Event) -> None:
        """The titles do not fit, or there are too many associations."""
        self._count("rejected")
        called = str(getattr(event.assoc.requestor.primitive, "called_ae_title", "")).strip()
        reason = "" if called == self.settings.aet else " that calls another AE title"
        LOG.warning("an association%s was rejected", reason)

    def _count(self, outcome: str) -> None:
        self.metrics.count_association(outcome)


def _other_side(event: Event) -> str:
    """Title of the application entity at the other end of an association, whoever opened it."""
    association = event.assoc
    return str((association.requestor if association.is_acceptor else association.acceptor).ae_title).strip()
