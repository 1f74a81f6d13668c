"""Writing files and folders so that a reader, or a program killed at any moment, sees the old one or the new one whole.

The new content is written beside its destination and moved into place by one rename. A killed program may leave a hidden
sibling named ``.NAME.tmp-XXXXXXXX``, which nothing reads; the next write to NAME removes it once it is a day old.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import RequestError
from .messages import shown_path

#: Age at which a temporary sibling belongs to no running program.
STALE_SECONDS = 24 * 3600


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """A binary file that appears at ``path`` complete when the block ends, and not at all if the block raises.

    Its folder must exist; an existing file is replaced. A device or a pipe is written to as it is.

    Raises:
        RequestError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    try:
        is_device = _is_device(path)
        remove_stale(path)
        handle, temporary = (-1, "") if is_device else tempfile.mkstemp(prefix=f".{path.name}.tmp-", dir=path.parent)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from None
    try:
        if is_device:
            with path.open("wb") as file:
                yield file
            return
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files; a result is an ordinary one
        os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def atomic_write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file in one step; see :func:`atomic_file`."""
    with atomic_file(path) as file:
        file.write(data)


def check_output_file(path: Path | str) -> Path:
    """Refuse an output file before the work starts, rather than after it.

    Raises:
        RequestError: it is a folder, its folder does not exist, or it cannot be written.
    """
    path = Path(path)
    try:
        if _exists(path) and path.is_dir():
            raise RequestError(f"output {shown_path(path)} cannot be written: it is a folder", "Name a file in it")
        if not _exists(path.absolute().parent):
            raise RequestError(
                f"output {shown_path(path)} cannot be written: its folder does not exist", "Create the folder first"
            )
        if not _is_device(path):
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.tmp-", dir=path.absolute().parent)
            os.close(handle)
            os.unlink(temporary)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from None
    return path


def check_output_folder(
    path: Path | str, overwrite: bool, marker: str | None = None, option: str | None = "--force"
) -> Path:  # fmt: skip
    """Refuse an output folder before the work starts, rather than after it.

    Args:
        path: the folder that will be written.
        overwrite: whether it may exist and hold something.
        marker: a file that this program puts into every folder it writes. A non-empty folder without it is refused even with
            ``overwrite``: replacing a folder deletes what is in it, and a mistyped option must not delete a home.
        option: what the calling command has for ``overwrite``, which an error recommends; None if it never replaces anything.

    Returns:
        The path, with links resolved.

    Raises:
        RequestError: it is a file, holds something, or cannot be written.
    """
    requested = path
    try:
        path = Path(os.path.realpath(path))
        if _exists(path) and not path.is_dir():
            raise RequestError(f"output {shown_path(requested)} is a file", "Name a folder")
        filled = path.is_dir() and any(path.iterdir())
        is_foreign = filled and marker is not None and not (path / marker).is_file()
        if filled and not overwrite:
            remedy = remedy_for_existing("Choose another", None if is_foreign else option)
            raise RequestError(f"output folder {shown_path(requested)} is not empty", remedy)
        if is_foreign:
            raise RequestError(
                f"output folder {shown_path(requested)} has no {marker}, so this program did not write it", "Choose another"
            )
        ancestor = path.parent
        while not _exists(ancestor):
            ancestor = ancestor.parent
        # Trying is the only test that is right for root, read-only mounts and network drives alike.
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=ancestor))
    except (OSError, ValueError) as error:
        raise unwritable(requested, error) from None
    return path


def remedy_for_existing(remedy: str, option: str | None) -> str:
    """What to do about an output that exists; ``option`` as in :func:`check_output_folder`."""
    return f"{remedy}, or replace it with {option}" if option else remedy


@contextlib.contextmanager
def atomic_folder(
    path: Path | str, overwrite: bool = False, marker: str | None = None, option: str | None = "--force"
) -> Iterator[Path]:  # fmt: skip
    """A new folder that appears at ``path`` complete when the block ends, and not at all if the block raises.

    ``with atomic_folder("out", overwrite=True) as folder: (folder / "a.txt").write_text("a")``

    Args:
        path: where the folder shall appear; missing parents are made.
        overwrite: replace a folder that holds something. On Linux the old and the new folder swap names in one system call,
            so that at no moment there is none.
        marker, option: see :func:`check_output_folder`.

    Raises:
        RequestError: as :func:`check_output_folder`.
    """
    path = check_output_folder(path, overwrite, marker, option)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        _sync(temporary)
        _move_into_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(path: Path) -> None:
    """Remove what killed programs left beside ``path``: temporary siblings of this user in which nothing changed for a day."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            if re.fullmatch(re.escape(f".{path.name}.tmp-") + r"\w{8}", entry.name) and _is_stale(Path(entry.path)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)


def _is_stale(path: Path) -> bool:
    """Whether a file or folder belongs to this user and nothing in it changed for a day."""
    status = path.lstat()
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        return False
    newest = status.st_mtime
    for root, folders, files in os.walk(path):
        newest = max([newest, *(os.lstat(os.path.join(root, name)).st_mtime for name in (*folders, *files))])
    return time.time() - newest > STALE_SECONDS


def _move_into_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        os.rename(temporary, path)
        return
    if not _swap(temporary, path):
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
        os.rename(path, old / "old")
        os.rename(temporary, path)
        shutil.rmtree(old, ignore_errors=True)
    # After a swap, ``temporary`` names the old folder, and the caller removes it.


def _swap(a: Path, b: Path) -> bool:
    """Exchange two names atomically: renameat2(2) with RENAME_EXCHANGE. False where the system has no such call."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    at_cwd, exchange = -100, 2
    swapped: bool = renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0
    return swapped


def _sync(folder: Path) -> None:
    # A board that loses power after the rename must not find empty files.
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file, contextlib.suppress(OSError):
                os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _exists(path: Path) -> bool:
    """Whether a file or folder is there. Where that cannot be known, OSError; ``Path.exists`` says False in some versions."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_device(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket, which a rename would destroy."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def unwritable(path: Path | str, error: OSError | ValueError) -> RequestError:
    """The error of an output that the system refuses."""
    reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else "its name has a null character"
    return RequestError(f"output {shown_path(path)} cannot be written: {reason}", "Choose another place")
