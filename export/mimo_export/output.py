"""Where a build is written: beside its destination, which it reaches by one rename when everything is proven."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mimo_runtime.atomic import atomic_folder
from mimo_runtime.bundle import SUFFIX, pack
from mimo_runtime.errors import RequestError
from mimo_runtime.manifest import MANIFEST

#: The machine-readable report; it marks a folder of single graphs, which has no manifest.
REPORT = "report.json"


@contextlib.contextmanager
def output_place(output: Path, force: bool, whole: bool) -> Iterator[Path]:
    """A folder to write into. If the block raises, or the process is killed, there is nothing at ``output``.

    Args:
        output: a folder, or a file if its name ends in ``.mimo``.
        force: replace what an earlier build wrote there; anything else is never replaced.
        whole: a bundle; otherwise a folder of single graphs.

    Raises:
        RequestError: the output exists, is no earlier build, or cannot be written.
    """
    if output.suffix != SUFFIX:
        with atomic_folder(output, overwrite=force, marker=MANIFEST if whole else REPORT) as folder:
            yield folder
        return
    if not whole:
        told = f"-o {output} is a single-file bundle, which needs all graphs"
        raise RequestError(told, "Name a folder, or leave --graphs out")
    if output.is_dir():
        raise RequestError(f"-o {output} is a folder", f"Name a {SUFFIX} file that does not exist")
    if output.exists() and not force:
        raise RequestError(f"-o {output} exists", "Choose another name, or replace it with --force")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.tmp-", dir=output.parent))
    except OSError as error:
        raise RequestError(f"output {output} cannot be written: {error.strerror}", "Choose another place") from None
    try:
        yield folder
        pack(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
