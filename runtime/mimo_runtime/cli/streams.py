"""Standard streams that cannot take every character, or nothing at all: legacy code pages, full disks, closed pipes."""

from __future__ import annotations

import codecs
import contextlib
import encodings.ascii
import io
import os
import sys

#: Most characters of a line that reports an error.
LINE_LIMIT = 300
#: click takes a stream in ASCII for misconfigured and writes UTF-8 to it. Under this name it keeps to ASCII.
_ASCII = "mimo_ascii"


def prepare_streams() -> None:
    """Let both streams replace characters that their encoding does not have, instead of raising UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_strict = stream.errors in ("strict", "surrogateescape")
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_ASCII if is_ascii else None, errors="replace" if is_strict else stream.errors)


def can_encode(text: str) -> bool:
    """Whether standard output takes all characters of a text as they are."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """A message as one printable line of at most ``limit`` characters; the middle of a longer one is left out."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else "?" for c in line)
    half = (limit - 5) // 2
    return line if len(line) <= limit else f"{line[:half]} ... {line[-half:]}"


def discard_output() -> None:
    """Send what is still to be written to nowhere: Python must not complain when it flushes at exit."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
            continue  # nothing is left
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    return codecs.CodecInfo(
        codecs.ascii_encode, codecs.ascii_decode, name=_ASCII,
        incrementalencoder=encodings.ascii.IncrementalEncoder, incrementaldecoder=encodings.ascii.IncrementalDecoder,
    )  # fmt: skip


codecs.register(_find_codec)
