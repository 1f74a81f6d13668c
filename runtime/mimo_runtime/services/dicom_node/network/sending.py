"""Associations that the node opens: objects, requests and reports to other nodes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import MimoError
from ..settings import NodeSettings, Peer
from .contexts import (
    COMMITMENT,
    COMMITMENT_INSTANCE,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    application_entity,
    client_context,
    proposed_contexts,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pynetdicom.association import Association
    from pynetdicom.events import Event
    from pynetdicom.presentation import PresentationContext

#: Seconds in which a report about storage commitment may come on the association of its request.
_SAME_ASSOCIATION_S = 1.0
_REQUEST_COMMITMENT = 1


class SendError(MimoError):
    """The other side did not take what was sent. Exit code 1."""


def verify_receiver(settings: NodeSettings, peer: Peer) -> None:
    """C-ECHO. Raises SendError where it is not answered."""
    from pynetdicom.presentation import build_context

    with _association(settings, peer, [build_context(VERIFICATION, [EXPLICIT, IMPLICIT])]) as association:
        try:
            _check(association.send_c_echo(), "the request")
        except (ValueError, RuntimeError):
            raise SendError("the request was not taken: not accepted") from None


def send_objects(settings: NodeSettings, peer: Peer, files: Sequence[Path], sent: Callable[[Path], None]) -> None:
    """Send DICOM files.

    Args:
        settings: of the node.
        peer: that takes them.
        files: DICOM files.
        sent: called for each file when it was taken.

    Raises:
        SendError: not all were taken.
    """
    import pydicom

    kinds = []
    for file in files:
        meta = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[]).file_meta
        kinds.append((str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID)))
    failed = list[str]()
    with _association(settings, peer, proposed_contexts(kinds)) as association:
        for file in files:
            try:
                status = association.send_c_store(file)
            except (ValueError, RuntimeError):  # no accepted context, or the association is gone
                failed.append("not accepted")
                continue
            code = status.get("Status")
            if code is not None and (code == 0 or code >> 12 == 0xB):  # success, or a warning: stored
                sent(file)
            else:
                failed.append("no response" if code is None else f"status 0x{code:04X}")
    if failed:
        raise SendError(f"{len(failed)} of {len(files)} objects were not taken: {failed[0]}")


def request_commitment(
    settings: NodeSettings, peer: Peer, request: Dataset, on_report: Callable[[Event], object], reported: threading.Event
) -> None:  # fmt: skip
    """Ask for storage commitment.

    Args:
        on_report: handles a report that comes on the same association.
        reported: set when the report is there, on whatever association; until then this one stays open for a short time.

    Raises:
        SendError: the request was not taken.
    """
    from pynetdicom import evt
    from pynetdicom.presentation import build_context

    contexts = [build_context(COMMITMENT, [EXPLICIT, IMPLICIT])]
    with _association(settings, peer, contexts, [(evt.EVT_N_EVENT_REPORT, on_report)]) as association:
        try:
            status, _ = association.send_n_action(request, _REQUEST_COMMITMENT, COMMITMENT, COMMITMENT_INSTANCE)
        except (ValueError, RuntimeError):
            raise SendError("the request for storage commitment was not taken: not accepted") from None
        _check(status, "the request for storage commitment")
        reported.wait(_SAME_ASSOCIATION_S)


def send_report(settings: NodeSettings, peer: Peer, kind: int, report: Dataset) -> None:
    """Report about storage commitment. Raises SendError where it was not taken."""
    from pynetdicom.presentation import build_context, build_role

    contexts = [build_context(COMMITMENT, [EXPLICIT, IMPLICIT])]
    with _association(settings, peer, contexts, roles=[build_role(COMMITMENT, scp_role=True)]) as association:
        try:
            status, _ = association.send_n_event_report(report, kind, COMMITMENT, COMMITMENT_INSTANCE)
        except (ValueError, RuntimeError):
            raise SendError("the report was not taken: not accepted") from None
        _check(status, "the report")


def _check(status: Dataset, what: str) -> None:
    code = status.get("Status")
    if code != 0:
        raise SendError(f"{what} was not taken: {'no response' if code is None else f'status 0x{code:04X}'}")


@contextlib.contextmanager
def _association(
    settings: NodeSettings,
    peer: Peer,
    contexts: list[PresentationContext],
    handlers: Sequence[tuple[object, Callable[[Event], object]]] = (),
    roles: Sequence[object] = (),
) -> Iterator[Association]:
    """An association with another node. Raises SendError where there is none."""
    tls = settings.tls
    wrapped = (client_context(tls), peer.host) if tls is not None and tls.when_sending else None
    entity = application_entity(settings.aet)
    association = entity.associate(
        peer.host, peer.port, contexts, peer.aet, tls_args=wrapped,
        evt_handlers=list(handlers), ext_neg=list(roles),  # type: ignore[arg-type]
    )  # fmt: skip
    if not association.is_established:
        raise SendError("no association: it was rejected" if association.is_rejected else "no association: no connection")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
