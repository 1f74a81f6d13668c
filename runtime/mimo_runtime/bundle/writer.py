"""Where a bundle is written: beside its destination, which it reaches by one rename when everything is proven."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import RequestError
from ..utils.atomic import atomic_folder, remedy_for_existing
from .archive import SUFFIX, pack
from .manifest import MANIFEST


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
    if output.is_dir():
        raise RequestError(f"-o {output} is a folder", f"Name a {SUFFIX} file that does not exist")
    if output.exists() and not overwrite:
        raise RequestError(f"-o {output} exists", remedy_for_existing("Choose another name", option))
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
