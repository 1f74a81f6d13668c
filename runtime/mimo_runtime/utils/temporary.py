"""Folders for temporary files, of this program and of matplotlib."""

from __future__ import annotations

import atexit
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
    if "matplotlib" in sys.modules or os.environ.get("MPLCONFIGDIR"):
        return
    check_temporary_folder()
    folder = tempfile.mkdtemp(prefix="mimo-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder
