"""What the operating system refuses, as one line and an exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from ..utils.messages import shown_path

#: Of a path that was asked for: the request was wrong. The others (a full disk, a read-only mount) are failures of the work.
_WRONG_PATH = {
    errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO
}  # fmt: skip
_REMEDIES = {
    errno.EACCES: "Change the permissions, or name another place",
    errno.EPERM: "Change the permissions, or name another place",
    errno.ENAMETOOLONG: "Name a shorter path",
    errno.ELOOP: "Name the file itself",
    errno.ENOSPC: "Make room, or name another place",
    errno.EDQUOT: "Make room, or name another place",
    errno.EROFS: "Name another place",
    errno.EMFILE: "Raise the limit of open files: ulimit -n",
    errno.ENOMEM: "Close other programs, or use another machine",
}


def describe_os_error(error: OSError, arguments: Sequence[str]) -> tuple[str, int]:
    """The line and the exit code of an error that no command expects.

    Args:
        arguments: of the command line. Names of files that are not among them are not shown: they may name a patient.
    """
    if "temporary directory" in str(error):  # of module tempfile
        return "error: there is no folder for temporary files. Set TMPDIR to a folder that can be written.", 1
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "Check the paths of the command")
    if error.filename is None:
        return f"error: {reason}. {remedy}.", 1
    place = _place(os.fsdecode(error.filename), arguments)
    code = 2 if error.errno in _WRONG_PATH else 1
    return f"error: {place}: {reason}. {remedy}." if place else f"error: {reason}. {remedy}.", code


def _place(path: str, arguments: Sequence[str]) -> str | None:
    """The path if the command line names it, or the argument that it lies in; None for other paths."""
    named = [argument.partition("=")[2] if argument.startswith("--") else argument for argument in arguments]
    if os.path.normpath(path) in map(os.path.normpath, named):
        return shown_path(path)
    real = os.path.realpath(path)
    for argument in filter(None, named):
        if real.startswith(os.path.join(os.path.realpath(argument), "")):
            return f"a file in {shown_path(argument)}"
    return None
