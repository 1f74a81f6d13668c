"""Where a bundle or a folder of graphs is written: a temporary folder, renamed to its destination when it is complete."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import RequestError
from ..utils.atomic import atomic_folder, check_output_file, remedy_for_existing, remove_stale, unwritable
from ..utils.messages import shown_path
from .archive import SUFFIX, pack
from .schema import MANIFEST

#: The machine-readable report; it marks a folder of single graphs, which has no manifest.
REPORT = "report.json"


@contextlib.contextmanager
def bundle_place(output: Path, overwrite: bool, option: str = "--force") -> Iterator[Path]:
    """A folder to write a bundle into. If the block raises, or the process is killed, there is nothing at ``output``.

    Args:
        output: a folder, or a file if its name ends in ``.mimo``.
        overwrite: replace an earlier bundle there; anything else is never replaced.
        option: what the calling command has for ``overwrite``, which an error recommends.

    Raises:
        RequestError: the output exists, is no bundle, or cannot be written.
    """
    if output.suffix != SUFFIX:
        with atomic_folder(output, overwrite, MANIFEST, option) as folder:
            yield folder
        return
    try:
        if output.is_dir():
            raise RequestError(f"-o {shown_path(output)} is a folder", f"Name a {SUFFIX} file that does not exist")
        if output.exists() and not overwrite:
            raise RequestError(f"-o {shown_path(output)} exists", remedy_for_existing("Choose another name", option))
        output.parent.mkdir(parents=True, exist_ok=True)
        check_output_file(output)
        remove_stale(output)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.tmp-", dir=output.parent))
    except (OSError, ValueError) as error:
        raise unwritable(output, error) from None
    try:
        yield folder
        pack(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def output_place(output: Path, overwrite: bool, whole: bool, option: str = "--overwrite") -> Iterator[Path]:
    """A folder to write the result of a build into. If the block raises, or the process is killed, ``output`` does not exist.

    Args:
        output: a folder, or a file if its name ends in ``.mimo``.
        overwrite: replace what an earlier build wrote there; anything else is never replaced.
        whole: a bundle; otherwise a folder of single graphs.
        option: see :func:`bundle_place`.

    Raises:
        RequestError: the output exists, is no earlier build, or cannot be written.
    """
    if whole:
        with bundle_place(output, overwrite, option) as folder:
            yield folder
        return
    if output.suffix == SUFFIX:
        problem = f"-o {output} is a single-file bundle, which needs all graphs"
        raise RequestError(problem, "Name a folder, or leave --graphs out")
    with atomic_folder(output, overwrite, REPORT, option) as folder:
        yield folder
