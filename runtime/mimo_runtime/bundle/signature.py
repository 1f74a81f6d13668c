"""Signatures of bundles: they identify the writer. A checksum only shows that a bundle is unchanged.

``signature.json`` beside the manifest holds an Ed25519 signature (RFC 8032) of this text, which OpenSSL can check::

    mimo-bundle-signature 1
    SHA-256 OF manifest.json

The manifest has the hash of every other file. Keys are PEM files (PKCS 8, SubjectPublicKeyInfo), as OpenSSL writes them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BundleError, RequestError
from ..model.json_fields import FieldError, constant, record, text, unique_keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = "signature.json"
#: Most bytes of the file.
LARGEST_SIGNATURE = 4096
_FORMAT, _VERSION, _ALGORITHM = "mimo-bundle-signature", "1", "ed25519"
#: What comes before the 32 bytes of an Ed25519 key in a DER SubjectPublicKeyInfo (RFC 8410).
_KEY_PREFIX = bytes.fromhex("302a300506032b6570032100")
_FIELDS = record(
    {
        "format": constant(_FORMAT),
        "format_version": constant(_VERSION),
        "algorithm": constant(_ALGORITHM),
        "public_key": text(100, "[A-Za-z0-9+/=]+"),
        "signature": text(200, "[A-Za-z0-9+/=]+"),
    }
)
_INSTALL = "pip install 'mimo-edge[sign]'"
_MAKE_KEYS = "Make keys with: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem"

#: A PEM file with a public key.
KeyFile = str | os.PathLike[str]


@dataclass(frozen=True)
class Signature:
    """The content of ``signature.json``."""

    #: 32 bytes.
    public_key: bytes
    #: 64 bytes.
    signature: bytes

    @property
    def fingerprint(self) -> str:
        """Of the key that the file names; only :func:`verify_signature` says whether that key signed."""
        return fingerprint_of(self.public_key)


def fingerprint_of(public_key: bytes) -> str:
    """``SHA256:`` and the hash of the key in DER, as ``openssl pkey -pubin -outform DER | sha256sum`` prints it."""
    return "SHA256:" + hashlib.sha256(_KEY_PREFIX + public_key).hexdigest()


def signed_text(manifest: bytes) -> bytes:
    """What is signed of the contents of ``manifest.json``."""
    return f"{_FORMAT} {_VERSION}\n{hashlib.sha256(manifest).hexdigest()}\n".encode()


def read_signature(raw: bytes, source: str) -> Signature:
    """Read the contents of ``signature.json``.

    Raises:
        BundleError: it is damaged.
    """
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_keys)
        _FIELDS(data)
        key, signature = (base64.b64decode(data[name], validate=True) for name in ("public_key", "signature"))
    except (ValueError, RecursionError, binascii.Error, FieldError):
        raise BundleError(f"{source} is damaged", "Copy the bundle again, or sign it again") from None
    if len(key) != 32 or len(signature) != 64:
        raise BundleError(f"{source} is damaged", "Copy the bundle again, or sign it again")
    return Signature(key, signature)


def read_public_key(path: KeyFile) -> bytes:
    """The 32 bytes of a public key.

    Raises:
        RequestError: the file is no Ed25519 public key in PEM, or the package ``cryptography`` is missing.
    """
    _check_installed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read_key(path, "trusted key"))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise RequestError(f"trusted key {path} is not an Ed25519 public key in PEM", _MAKE_KEYS)
    return _raw(key)


def read_private_key(path: KeyFile) -> Ed25519PrivateKey:
    """A key to sign with.

    Raises:
        RequestError: the file is no Ed25519 private key in PEM without a password, or ``cryptography`` is missing.
    """
    _check_installed()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read_key(path, "key"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise RequestError(f"key {path} is not an Ed25519 private key in PEM without a password", _MAKE_KEYS)
    return key


def sign_manifest(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The contents of ``signature.json`` for the contents of ``manifest.json``."""
    encoded = {
        "public_key": base64.b64encode(_raw(key.public_key())).decode(),
        "signature": base64.b64encode(key.sign(signed_text(manifest))).decode(),
    }
    data = {"format": _FORMAT, "format_version": _VERSION, "algorithm": _ALGORITHM, **encoded}
    return (json.dumps(data, indent=1) + "\n").encode()


def verify_signature(signature: Signature, manifest: bytes, source: str) -> None:
    """Check that the key of a signature signed this manifest.

    Raises:
        BundleError: it did not. RequestError: the package ``cryptography`` is missing.
    """
    _check_installed()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(signature.public_key).verify(signature.signature, signed_text(manifest))
    except (InvalidSignature, ValueError):
        message = f"bundle {source} has a signature of another manifest: it was changed after it was signed"
        raise BundleError(message, "Get the bundle from its author again") from None


def check_trust(signature: Signature | None, manifest: bytes, trust: KeyFile, source: str) -> None:
    """Check that the trusted key signed a manifest.

    Raises:
        BundleError: unsigned, signed by another key, or changed. RequestError: see :func:`read_public_key`.
    """
    trusted = read_public_key(trust)
    if signature is None:
        message = f"bundle {source} is not signed, and only bundles of a trusted key are loaded"
        raise BundleError(message, "Sign it with mimo-export sign BUNDLE --key KEY, or leave --trust out")
    if signature.public_key != trusted:
        message = (
            f"bundle {source} is signed by another key: {signature.fingerprint[:23]}, trusted is {fingerprint_of(trusted)[:23]}"
        )
        raise BundleError(message, "Get the bundle from its author again, or pass the author's public key")
    verify_signature(signature, manifest, source)


def describe_signer(signature: Signature | None, manifest: bytes, source: str, trusted: bool = False) -> str:
    """Who signed a bundle, in words.

    Args:
        trusted: whether :func:`check_trust` passed.

    Raises:
        BundleError: the bundle was changed after it was signed.
    """
    if signature is None:
        return "unsigned: its hashes show damage, not who wrote it"
    if trusted:
        return f"signed by the trusted key {signature.fingerprint}"
    if not is_installed():
        return f"names key {signature.fingerprint}, not verified"
    verify_signature(signature, manifest, source)
    return f"signed by key {signature.fingerprint}; whose key that is, only --trust PUB can say"


def is_installed() -> bool:
    """Whether signatures can be verified here."""
    try:
        import cryptography  # noqa: F401
    except ImportError:
        return False
    return True


def _check_installed() -> None:
    if not is_installed():
        raise RequestError("the package cryptography is not installed, which signs bundles and verifies signatures", _INSTALL)


def _read_key(path: KeyFile, role: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(1 << 16)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no path"
        raise RequestError(f"{role} {path} cannot be read: {reason}", _MAKE_KEYS) from None


def _raw(key: Ed25519PublicKey) -> bytes:
    raw: bytes = key.public_bytes_raw()
    return raw
