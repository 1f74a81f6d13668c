"""GDCM as a plugin of pydicom that decodes in a process of its own: GDCM ends its process at some damaged streams.

The plugin does what pydicom's plugin for GDCM does, apart from the place. pydicom's own stays unused: see ``PLUGINS``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder, DecodeRunner

#: Name of the plugin in pydicom.
LABEL = "gdcm-process"
#: Of pydicom's own plugin, which decodes in this process.
IN_PROCESS = "gdcm"
_SECONDS = 60
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
#: What pydicom asks plugins for: the packages that each transfer syntax needs.
DECODER_DEPENDENCIES = dict.fromkeys(
    (*(f"1.2.840.10008.1.2.4.{k}" for k in (50, 51, 57, 70)), *_JPEG_LS, *_JPEG_2000), ("gdcm>=3.0.10",)
)


class FrameHeader(TypedDict):
    """The first line of a request to ``gdcm_process``."""

    rows: int
    columns: int
    samples: int
    #: Planar configuration; 0 for one sample.
    planar: int
    #: Bits allocated and stored.
    allocated: int
    stored: int
    #: 1 for values with a sign.
    signed: int
    #: UID of the transfer syntax.
    syntax: str
    photometric: str


def is_available(uid: str) -> bool:
    """Whether the plugin decodes a transfer syntax. Part of pydicom's interface of plugins."""
    return uid in DECODER_DEPENDENCIES and importlib.util.find_spec("gdcm") is not None


def decode_in_process(header: FrameHeader, stream: bytes) -> bytes:
    """The decoded bytes of a frame; empty if GDCM cannot read it or ends its process."""
    command = [sys.executable, "-m", f"{__package__}.gdcm_process"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    request = json.dumps(header).encode() + b"\n" + stream
    try:
        done = subprocess.run(command, input=request, capture_output=True, env=environment, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout if done.returncode == 0 else b""


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """The decoded bytes of a frame. Part of pydicom's interface of plugins.

    Raises:
        NotImplementedError, ValueError: streams that GDCM decodes wrongly.
        RuntimeError: GDCM cannot read the stream.
    """
    syntax, stored = str(runner.transfer_syntax), runner.bits_stored
    if syntax == _JPEG_EXTENDED and stored != 8:
        raise NotImplementedError("GDCM decodes JPEG Extended of 12 bits with other settings")
    if syntax in _JPEG_LS and (stored in (6, 7) or syntax == _JPEG_LS[1] and runner.pixel_representation and stored < 8):
        raise ValueError("GDCM decodes JPEG-LS of so few bits wrongly")
    planar = runner.planar_configuration if runner.samples_per_pixel > 1 else 0
    if syntax in _JPEG_LS:
        runner.set_option("planar_configuration", 0)  # JPEG-LS always comes by pixel
        stored = runner.get_option("jls_precision", stored)
    if syntax in _JPEG_2000:
        stored = runner.get_option("j2k_precision", stored)
    if syntax in _JPEG_LS + _JPEG_2000 and 0 < stored <= 32:
        runner.set_option("bits_allocated", 8 if stored <= 8 else 16 if stored <= 16 else 32)
    photometric = str(runner.photometric_interpretation)
    decoded = decode_in_process(
        {
            "rows": runner.rows, "columns": runner.columns, "samples": runner.samples_per_pixel, "planar": planar,
            "allocated": runner.bits_allocated, "stored": stored, "signed": runner.pixel_representation, "syntax": syntax,
            "photometric": photometric,
        },
        source,
    )  # fmt: skip
    if not decoded:
        raise RuntimeError("GDCM cannot read the stream")
    if syntax in _JPEG_2000 and photometric in ("YBR_ICT", "YBR_RCT"):
        runner.set_option("photometric_interpretation", "RGB")  # JPEG 2000 comes as RGB
    return decoded


_registering = threading.Lock()


def safe_plugins(decoder: Decoder) -> list[str]:
    """The names of the plugins that a decoder of pydicom may use here, in order: this one in place of pydicom's for GDCM.

    An empty name stands for pydicom's own choice, where GDCM is not concerned.
    """
    if str(decoder.UID) not in DECODER_DEPENDENCIES:
        return [""]
    with _registering:  # pydicom does not lock its list
        if LABEL not in decoder.available_plugins:
            _register(decoder)
    others = [name for name in decoder.available_plugins if name not in (LABEL, IN_PROCESS)]
    return [name for name in (LABEL, *others) if name in decoder.available_plugins]


def _register(decoder: Decoder) -> None:
    try:
        decoder.add_plugin(LABEL, (__name__, decode_frame.__name__))
    except ValueError:  # it is registered already, as not available
        return
