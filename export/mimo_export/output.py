"""Where a build is written: a bundle, or a folder of single graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mimo_runtime.bundle.archive import SUFFIX
from mimo_runtime.bundle.writer import bundle_place
from mimo_runtime.errors import RequestError
from mimo_runtime.utils.atomic import atomic_folder

#: The machine-readable report; it marks a folder of single graphs, which has no manifest.
REPORT = "report.json"
#: The option of ``mimo-export build`` that replaces the output and does nothing else.
OVERWRITE = "--overwrite"


@contextlib.contextmanager
def output_place(output: Path, overwrite: bool, whole: bool) -> Iterator[Path]:
    """A folder to write into. If the block raises, or the process is killed, there is nothing at ``output``.

    Args:
        output: a folder, or a file if its name ends in ``.mimo``.
        overwrite: replace what an earlier build wrote there; anything else is never replaced.
        whole: a bundle; otherwise a folder of single graphs.

    Raises:
        RequestError: the output exists, is no earlier build, or cannot be written.
    """
    if whole:
        with bundle_place(output, overwrite, OVERWRITE) as folder:
            yield folder
        return
    if output.suffix == SUFFIX:
        told = f"-o {output} is a single-file bundle, which needs all graphs"
        raise RequestError(told, "Name a folder, or leave --graphs out")
    with atomic_folder(output, overwrite, REPORT, OVERWRITE) as folder:
        yield folder
