"""The socket of a node, with limits that pynetdicom does not have.

A connection may take no longer than :data:`PART_S` for one part of a message, a part may have no more bytes than
:data:`LARGEST_PART`, a TLS handshake does not block other connections, connections are bounded before they negotiate, and one
that is closed before that does not count as open.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ....utils.log import LOGGER
from .contexts import IDLE_S

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association
    from pynetdicom.events import Event
    from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

#: Bytes of one part of a message (PDU); requests of associations are smaller than 300 kB.
LARGEST_PART = 1 << 20
#: Seconds for one part of a message.
PART_S = 60.0
_BLOCK = 1 << 16
Handler = Callable[["Event"], object]


def open_server(
    entity: ApplicationEntity,
    address: tuple[str, int],
    tls: Callable[[], ssl.SSLContext | None],
    handlers: Sequence[tuple[object, Handler]],
    on_turn: Callable[[], None],
) -> ThreadedAssociationServer:
    """Listen in a thread. Raises OSError where the address cannot be used.

    Args:
        tls: the context of the next connection; None speaks plain DICOM.
        on_turn: called several times a second while connections are accepted.
    """
    from pynetdicom import evt
    from pynetdicom.transport import ThreadedAssociationServer

    class Server(ThreadedAssociationServer):
        """Bounds connections, and keeps errors out of standard error."""

        def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
            assert self.socket is not None
            connection, client = self.socket.accept()
            connection.settimeout(IDLE_S)
            context = tls()
            if context is not None:  # the handshake is made by the thread of the association
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            return connection, client

        def service_actions(self) -> None:
            super().service_actions()
            on_turn()

        def verify_request(self, request: object, client_address: object) -> bool:
            for association in entity.active_associations:
                if association.is_acceptor and association.dul.ident and not association.dul.is_alive():
                    _end_waiting(association)
            return len(entity.active_associations) < 2 * entity.maximum_associations + 8

        def handle_error(self, request: object, client_address: object) -> None:
            LOGGER.getChild("node").warning("a connection failed")

    def on_open(event: Event) -> None:
        connection = event.assoc.dul.socket
        if connection is not None:
            connection.recv = _bounded(connection)  # type: ignore[method-assign, assignment]

    bound = [(evt.EVT_CONN_OPEN, on_open), (evt.EVT_CONN_CLOSE, lambda event: _end_waiting(event.assoc)), *handlers]
    server = Server(
        entity,
        address,
        entity.ae_title,
        entity.supported_contexts,
        evt_handlers=list(bound),  # type: ignore[arg-type]
    )
    entity._servers.append(server)
    threading.Thread(target=server.serve_forever, args=(0.1,), name="mimo-node", daemon=True).start()
    return server


def _end_waiting(association: Association) -> None:
    """End an association whose connection is gone before it was negotiated; it would wait for a request, and count as open."""
    if not association.is_established:
        association.dul.to_user_queue.put(None)  # taken as the end of the wait


def _bounded(connection: AssociationSocket) -> Callable[[int], bytearray]:
    """A ``recv`` that reads in large blocks, and returns less, which ends the connection, beyond a limit."""

    def receive(size: int) -> bytearray:
        received, deadline = bytearray(), time.monotonic() + PART_S
        if size > LARGEST_PART:
            return received
        while len(received) < size:
            if time.monotonic() > deadline:
                return bytearray()
            block = connection.socket.recv(min(size - len(received), _BLOCK)) if connection.socket else b""
            if not block:
                break
            received.extend(block)
        return received

    return receive
