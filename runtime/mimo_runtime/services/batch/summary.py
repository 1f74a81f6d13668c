"""The summary of a batch: one row for each finding, as CSV and, with pyarrow, as Parquet; and the failures.

Rows come in the order of the inputs and hold no times, so a batch that was ended and resumed has the summary of an
undisturbed one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from ...utils.atomic import atomic_file, atomic_write_bytes
from .answering import Outcome
from .items import BatchItem
from .ledger import Entry

#: Columns of the summary, and the type of their values. An image without a finding has one row, with the columns from
#: ``finding`` on empty.
COLUMNS: dict[str, type] = {
    "number": int, "key": str, "folder": str, "width": int, "height": int, "modality": str, "spacing_row_mm": float,
    "spacing_column_mm": float, "text": str, "refusal": str, "domain": str, "warnings": str, "finding": int,
    "phrase": str, "present": bool, "confident": bool, "score": float, "presence": float, "iou": float, "area_px": int,
    "area_mm2": float, "longest_diameter_mm": float, "x0": float, "y0": float, "x1": float, "y1": float,
}  # fmt: skip
_FACTS = ("width", "height", "modality", "text", "refusal", "domain")
_OF_FINDING = (
    "phrase", "present", "confident", "score", "presence", "iou", "area_px", "area_mm2", "longest_diameter_mm"
)  # fmt: skip


def write_summary(
    folder: Path, items: Sequence[BatchItem], outcomes: Sequence[Outcome], entries: Mapping[str, Entry], *, sources: bool
) -> list[str]:
    """Write ``summary.csv``, ``summary.parquet`` where pyarrow is installed, ``failures.csv`` and ``inputs.csv``.

    Args:
        items: of the batch.
        outcomes: one for each item, in any order.
        entries: of the ledger.
        sources: write ``inputs.csv``, which has the paths or UIDs of the inputs.

    Returns:
        The names of the files.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.number)
    rows = [row for outcome in ordered if not outcome.failure for row in _rows(outcome.number, entries[outcome.key])]
    _write_csv(folder / "summary.csv", tuple(COLUMNS), ([row.get(name) for name in COLUMNS] for row in rows))
    failed = [(outcome.number, outcome.failure) for outcome in ordered if outcome.failure]
    _write_csv(folder / "failures.csv", ("number", "reason"), failed)
    names = ["summary.csv", "failures.csv"]
    if sources:
        keys = {outcome.number: outcome.key for outcome in outcomes}
        _write_csv(folder / "inputs.csv", ("number", "key", "source"), ((i.number, keys[i.number], i.source) for i in items))
        names.append("inputs.csv")
    if find_spec("pyarrow") is not None:
        _write_parquet(folder / "summary.parquet", rows)
        names.append("summary.parquet")
    return names


def _rows(number: int, entry: Entry) -> Iterator[dict[str, object]]:
    facts = entry.facts
    spacing = facts.get("spacing_mm")
    row, column = spacing if isinstance(spacing, (list, tuple)) else (None, None)
    warnings = facts.get("warnings")
    image = {
        "number": number, "key": entry.key, "folder": entry.folder, **{name: facts.get(name) for name in _FACTS},
        "spacing_row_mm": row, "spacing_column_mm": column,
        "warnings": "; ".join(map(str, warnings)) if isinstance(warnings, list) else "",
    }  # fmt: skip
    for index, finding in enumerate(entry.findings):
        box = finding.get("box")
        corners = dict(zip(("x0", "y0", "x1", "y1"), box)) if isinstance(box, (list, tuple)) else {}
        yield {**image, "finding": index, **{name: finding.get(name) for name in _OF_FINDING}, **corners}
    if not entry.findings:
        yield image


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    atomic_write_bytes(path, buffer.getvalue().encode("utf-8", "backslashreplace"))


def _cell(value: object) -> object:
    """A value that a spreadsheet does not take for a formula."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    import pyarrow
    import pyarrow.parquet

    types = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    columns = {
        name: [None if (value := row.get(name)) is None else kind(value) for row in rows] for name, kind in COLUMNS.items()
    }
    with atomic_file(path) as file:
        pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), file)
