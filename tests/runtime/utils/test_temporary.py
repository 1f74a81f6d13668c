"""Temporary folders of libraries: of this process alone, and gone at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_runtime.utils.temporary import keep_matplotlib_out_of_home, keep_torch_out_of_shared_folders

VARIABLES = {"MPLCONFIGDIR": keep_matplotlib_out_of_home, "TORCHINDUCTOR_CACHE_DIR": keep_torch_out_of_shared_folders}


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_folder_that_the_user_names_is_kept(variable: str, monkeypatch) -> None:
    monkeypatch.setenv(variable, "/some/where")
    VARIABLES[variable]()
    assert os.environ[variable] == "/some/where"


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="modes of POSIX")
def test_a_folder_of_its_own_is_gone_at_the_end_of_its_process(variable: str, tmp_path: Path) -> None:
    """And not at the end of a forked child."""
    program = (
        f"import os; from mimo_runtime.utils.temporary import {VARIABLES[variable].__name__} as keep\n"
        f"keep(); folder = os.environ[{variable!r}]; assert os.stat(folder).st_mode & 0o777 == 0o700\n"
        "child = os.fork()\n"
        "if child: os.waitpid(child, 0); assert os.path.isdir(folder)"
    )
    environment = {**{k: v for k, v in os.environ.items() if k not in VARIABLES}, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
