"""Folders for temporary files, of this program, of matplotlib and of PyTorch."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile

from ..errors import MimoError


def check_temporary_folder() -> None:
    """Refuse work that needs temporary files before it starts.

    Raises:
        MimoError: no folder for them can be written.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        message = "there is no folder for temporary files"
        raise MimoError(message, "Set TMPDIR to a folder that can be written") from None


def keep_matplotlib_out_of_home() -> None:
    """Give matplotlib a temporary folder for its settings and its list of fonts. To be called before its import.

    By itself it writes them into HOME, and complains where there is none. MPLCONFIGDIR names a folder to keep.

    Raises:
        MimoError: as :func:`check_temporary_folder`.
    """
    if "matplotlib" not in sys.modules:
        _private_folder("MPLCONFIGDIR", "mimo-matplotlib-")
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it announces its list of fonts


def keep_torch_out_of_shared_folders() -> None:
    """Give PyTorch's compiler a temporary folder of its own. To be called before an optimizer or an export is made.

    By itself it makes ``torchinductor_USER`` among the temporary files, or in the current folder where there is no place for
    these. Nothing here compiles, so there is nothing to keep. TORCHINDUCTOR_CACHE_DIR names a folder to keep.

    Raises:
        MimoError: as :func:`check_temporary_folder`.
    """
    if "torch._inductor.runtime.cache_dir_utils" not in sys.modules:
        _private_folder("TORCHINDUCTOR_CACHE_DIR", "mimo-torch-")


def _private_folder(variable: str, prefix: str) -> None:
    """Let an environment variable that is not set name a temporary folder, which is removed at the end."""
    if os.environ.get(variable):
        return
    check_temporary_folder()
    folder, process = tempfile.mkdtemp(prefix=prefix), os.getpid()
    os.environ[variable] = folder
    atexit.register(_remove, folder, process)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # a forked child still needs nothing of it, and its parent may
        shutil.rmtree(folder, ignore_errors=True)
