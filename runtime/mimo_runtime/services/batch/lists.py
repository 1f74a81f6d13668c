"""Lists of images with their questions: CSV with a header, or JSON lines.

Fields: ``image``, ``text``, ``box``, ``boxes``, ``point``, ``points``, ``mask``, ``frame``, ``modality``. In CSV, boxes
and points are numbers with commas, several of them with semicolons between: ``40,60,180,200;10,10,30,30``. Paths are relative
to the list.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import RequestError
from .question import Question

FIELDS = ("image", "text", "box", "boxes", "point", "points", "mask", "frame", "modality")
#: Bytes of a list.
LARGEST = 256 << 20


def read_list(path: Path, question: Question) -> Iterator[tuple[str, Question]]:
    """Path and question of every image of a list. A field that is left out or empty is that of ``question``.

    Raises:
        RequestError: the list cannot be read, has an unknown field, or a row without an image or with a wrong value.
    """
    rows = list(_json_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path))
    if not rows:
        raise RequestError("a list has no rows", "Write one row for each image")
    for number, row in rows:
        unknown = [name for name in row if name not in FIELDS]
        if unknown:
            raise RequestError(f"line {number} of a list has an unknown field", f"Use {', '.join(FIELDS)}")
        values = {name: value for name, value in row.items() if value not in ("", None)}
        image = values.get("image")
        if not isinstance(image, str):
            raise RequestError(f"line {number} of a list has no image", "Write its path into the field image")
        yield str(path.parent / image), _question(values, question, path.parent, number)


def _question(values: Mapping[str, object], default: Question, folder: Path, number: int) -> Question:
    text, mask, modality = (_text(values, name, number) for name in ("text", "mask", "modality"))
    boxes, points = _numbers(values, ("box", "boxes"), (4,), number), _numbers(values, ("point", "points"), (2, 3), number)
    frame = values.get("frame", default.frame)
    try:
        frame = int(str(frame))
    except ValueError:
        frame = -1
    if frame < 0:
        raise _wrong("frame", number, "a whole number from 0")
    return replace(
        default, text=text or default.text, mask=str(folder / mask) if mask else default.mask, frame=frame,
        modality=modality or default.modality, boxes=boxes or default.boxes, points=points or default.points,
    )  # fmt: skip


def _text(values: Mapping[str, object], name: str, number: int) -> str:
    value = values.get(name, "")
    if not isinstance(value, str):
        raise _wrong(name, number, "a text")
    return value


def _numbers(
    values: Mapping[str, object], names: tuple[str, str], lengths: tuple[int, ...], number: int
) -> tuple[tuple[float, ...], ...]:
    """Boxes or points of the field of one, or of several."""
    groups: list[object] = []
    one, several = names
    for name in names:
        value = values.get(name)
        if isinstance(value, str):
            groups += [part.split(",") for part in value.split(";") if part.strip()]
        elif isinstance(value, list):
            groups += value if name == several and all(isinstance(v, list) for v in value) else [value]
        elif value is not None:
            raise _wrong(name, number, "numbers with commas, or a list")
    try:
        read = tuple(tuple(float(v) for v in group) for group in groups if isinstance(group, list))
    except (TypeError, ValueError):
        raise _wrong(one, number, "numbers") from None
    if len(read) < len(groups) or any(len(group) not in lengths for group in read):
        raise _wrong(one, number, f"{' or '.join(map(str, lengths))} numbers")
    return read


def _wrong(name: str, number: int, expected: str) -> RequestError:
    return RequestError(f"line {number} of a list has a wrong {name}", f"Write {expected}")


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise RequestError(f"a list is larger than {LARGEST >> 20} MB", "Split it")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise RequestError(f"a list cannot be read: {reason}", "Name a CSV or JSON lines file") from None


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(_read(path)), strict=True)
    try:
        for row in reader:
            if None in row:
                what = f"line {reader.line_num} of a list has more cells than its header"
                raise RequestError(what, "Quote cells with commas")
            yield reader.line_num, {name.strip(): (value or "").strip() for name, value in row.items()}
    except csv.Error:
        raise RequestError(f"line {reader.line_num} of a list is no CSV", "Write it with a header and commas") from None


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise RequestError(f"line {number} of a list is no JSON object", "Write one object on each line")
        yield number, row
