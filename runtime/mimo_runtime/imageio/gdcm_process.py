"""Decode one compressed frame with GDCM: a program of its own, because GDCM ends its process at some damaged streams.

Standard input: a line of JSON (rows, columns, samples, stored bits, signed, syntax, photometric), then the stream. Standard
output: the decoded bytes, none if GDCM cannot read the stream.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    import gdcm

    frame = json.loads(sys.stdin.buffer.readline())
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((frame["columns"], frame["rows"], 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(frame["photometric"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(frame["syntax"])))
    stored = frame["stored"]
    allocated = 8 if stored <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(frame["samples"], allocated, stored, stored - 1, frame["signed"]))
    buffer = image.GetBuffer()
    # The binding returns char* as text.
    sys.stdout.buffer.write(b"" if buffer is None else buffer.encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    main()
