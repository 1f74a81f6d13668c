"""Presentation contexts of a node, and pynetdicom without its log."""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ....errors import RequestError
from ....imageio.encapsulated import gdcm_decodes
from ..settings import Tls

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.presentation import PresentationContext

VERIFICATION, COMMITMENT = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1"
#: The well-known instance of storage commitment; PS3.4 J.3.5.
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
#: Label maps (supplement 243), which pynetdicom 3.0 does not know.
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
#: Most bytes of one received part of a message, as the node announces it.
MAX_PDU = 131072
#: Seconds to open a connection, to negotiate, to wait for a response, and without any data.
CONNECT_S, NEGOTIATE_S, RESPOND_S, IDLE_S = 10.0, 30.0, 60.0, 60.0


@functools.cache
def prepare_pynetdicom() -> None:
    """Silence the log of pynetdicom, which shows data sets and identifiers, and register what it does not know.

    The node logs associations itself.
    """
    from pynetdicom import _config, register_uid
    from pynetdicom.service_class import StorageServiceClass
    from pynetdicom.sop_class import uid_to_service_class

    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    quiet = logging.getLogger("pynetdicom")
    quiet.handlers, quiet.propagate = [logging.NullHandler()], False
    quiet.setLevel(logging.CRITICAL + 1)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("pynetdicom."):
            logging.getLogger(name).setLevel(logging.NOTSET)
    if uid_to_service_class(LABEL_MAP) is not StorageServiceClass:
        register_uid(LABEL_MAP, "LabelMapSegmentationStorage", StorageServiceClass)


def storage_classes() -> list[str]:
    """UIDs of the storage classes that the node takes: all that pynetdicom knows, and label maps."""
    prepare_pynetdicom()
    from pynetdicom import AllStoragePresentationContexts

    known = (str(context.abstract_syntax) for context in AllStoragePresentationContexts)
    return sorted({*known, LABEL_MAP})


@functools.cache
def decodable_syntaxes() -> tuple[str, ...]:
    """Transfer syntaxes whose images can be decoded with what is installed; those without compression first."""
    from pydicom._uid_dict import UID_dictionary
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    native, compressed = [], []
    for uid, (_, kind, *_rest) in UID_dictionary.items():
        if kind != "Transfer Syntax":
            continue
        try:
            is_decoded = get_decoder(UID(uid)).is_available or gdcm_decodes(uid)
        except NotImplementedError:
            continue
        if not UID(uid).is_encapsulated:
            native.append(uid)
        elif is_decoded:
            compressed.append(uid)
    return (*sorted(native, key=lambda uid: uid != EXPLICIT), *compressed)


def supported_contexts() -> list[PresentationContext]:
    """What the node accepts."""
    from pynetdicom.presentation import build_context

    syntaxes = list(decodable_syntaxes())
    contexts = [build_context(uid, syntaxes) for uid in storage_classes()]
    commitment = build_context(COMMITMENT, [EXPLICIT, IMPLICIT])
    # A node asks for commitment, or reports about it: in the second case it calls as SCP.
    commitment.scu_role = commitment.scp_role = True
    return [build_context(VERIFICATION, [EXPLICIT, IMPLICIT]), commitment, *contexts]


def proposed_contexts(objects: Iterable[tuple[str, str]]) -> list[PresentationContext]:
    """What the node proposes to send objects.

    Args:
        objects: ``(SOP class, transfer syntax)`` of each.
    """
    from pynetdicom.presentation import build_context

    wanted: dict[str, list[str]] = {}
    for sop_class, syntax in objects:
        listed = wanted.setdefault(sop_class, [])
        if syntax not in listed:
            listed.append(syntax)
    for listed in wanted.values():
        if EXPLICIT in listed and IMPLICIT not in listed:
            listed.append(IMPLICIT)
    return [build_context(sop_class, syntaxes) for sop_class, syntaxes in wanted.items()]


def application_entity(aet: str) -> ApplicationEntity:
    """An application entity with the node's times."""
    prepare_pynetdicom()
    from pynetdicom.ae import ApplicationEntity

    entity = ApplicationEntity(aet)
    entity.maximum_pdu_size = MAX_PDU
    entity.connection_timeout, entity.acse_timeout = CONNECT_S, NEGOTIATE_S
    entity.dimse_timeout, entity.network_timeout = RESPOND_S, IDLE_S
    return entity


def server_context(tls: Tls) -> ssl.SSLContext:
    """TLS of the node as server: 1.2 or later; with authorities, a client presents a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load(context, tls.cert, tls.key, tls.ca)
    if tls.ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(tls: Tls) -> ssl.SSLContext:
    """TLS of the node as client, which checks the certificate and the name of the other side."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    _load(context, tls.cert, tls.key, tls.ca)
    return context


def trusting(ca: Path | None) -> ssl.SSLContext:
    """TLS of an HTTP client."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    _load(context, None, None, ca)
    return context


def _load(context: ssl.SSLContext, cert: Path | None, key: Path | None, ca: Path | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if cert is not None:
            context.load_cert_chain(cert, key, password="")  # a key with a passphrase is refused, not asked for
        if ca is not None:
            context.load_verify_locations(ca)
    except OSError as error:  # ssl.SSLError is one
        remedy = "Name a certificate and its key in PEM, without a passphrase"
        raise RequestError(f"the TLS files cannot be used: {type(error).__name__}", remedy) from None
