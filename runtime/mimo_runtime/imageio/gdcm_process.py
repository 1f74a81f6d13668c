"""Decode compressed frames with GDCM: a program of its own, because GDCM ends its process at some damaged streams.

Standard input holds requests: the lengths of the two parts (uint32, little endian), a JSON object (rows, columns, samples,
allocated and stored bits, signed, planar, syntax, photometric), and the stream. Standard output: for each the length of the
decoded bytes, and these; the length is 0 if GDCM cannot read the stream. The end of the input ends the program.
"""

from __future__ import annotations

import json
import os
import struct
import sys


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints
    while len(lengths := sys.stdin.buffer.read(8)) == 8:
        words, size = struct.unpack("<II", lengths)
        header = json.loads(sys.stdin.buffer.read(words))
        try:
            decoded = _decode(header, sys.stdin.buffer.read(size))
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, MemoryError, OverflowError):
            decoded = b""
        out.write(struct.pack("<I", len(decoded)) + decoded)
        out.flush()


def _decode(frame: dict[str, object], stream: bytes) -> bytes:
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(stream)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((frame["columns"], frame["rows"], 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(frame["photometric"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if frame.get("planar") is not None:
        image.SetPlanarConfiguration(frame["planar"])
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(frame["syntax"])))
    stored = frame["stored"]
    assert isinstance(stored, int)
    image.SetPixelFormat(gdcm.PixelFormat(frame["samples"], frame["allocated"], stored, stored - 1, frame["signed"]))
    buffer = image.GetBuffer()
    # The binding returns char* as text.
    return b"" if buffer is None else buffer.encode("utf-8", "surrogateescape")


if __name__ == "__main__":
    main()
