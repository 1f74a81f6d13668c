"""mypy finds nothing in the packages that ship ``py.typed``."""

from __future__ import annotations

import subprocess
import sys

import pytest
from structure import PACKAGES, REPOSITORY

#: What mypy checks: the runtime strictly, as pyproject.toml says, and other packages less strictly.
CHECKS = {"mimo_runtime": [], "workbench": ["--config-file", "tests/mypy-workbench.ini"]}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="checked with the numpy of constraints.txt for Python 3.11 and later")
@pytest.mark.parametrize("name", CHECKS)
def test_mypy_accepts_the_packages(name: str) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *CHECKS[name]]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


#: The packages that :data:`CHECKS` covers.
CHECKED = {"mimo_runtime", "mimo_export", "mimo_calibration"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_declares_that_it_is_typed_if_its_types_are_checked(package: str) -> None:
    assert (PACKAGES[package] / "py.typed").is_file() == (package in CHECKED)
