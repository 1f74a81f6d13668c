"""Names of structures in Chinese, Spanish, German and French.

Only names that mean the same structure are in the table, neither a wider nor a narrower one.
"""

from __future__ import annotations

from .tables import read_lines

#: Languages of the columns of ``tables/translations.txt`` behind the English name, by ISO 639-1.
LANGUAGES = ("zh", "es", "de", "fr")


def _read_rows() -> dict[str, dict[str, tuple[str, ...]]]:
    rows = {}
    for line in read_lines("translations.txt"):
        english, *columns = (cell.strip() for cell in line.split("|"))
        names = (tuple(name.strip() for name in column.split("/")) for column in columns)
        rows[english] = dict(zip(LANGUAGES, names, strict=True))
    return rows


#: Names by English name and language.
TRANSLATIONS: dict[str, dict[str, tuple[str, ...]]] = _read_rows()
