"""The source trees that are compared: this checkout, and an export of a revision of it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from mimo_runtime.errors import RequestError

REPOSITORY = Path(__file__).resolve().parents[3]
#: The part of a tree that answers questions.
RUNTIME = "runtime"


def resolve_revision(revision: str, repository: Path = REPOSITORY) -> str:
    """The full hash of a commit.

    Raises:
        RequestError: ``repository`` is not a git checkout, git is missing, or it has no such commit.
    """
    commit = _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if commit is None:
        raise RequestError(f"{repository} has no revision '{revision}'", "Give a commit, branch or tag of this checkout")
    return commit.decode().strip()


def current_revision(repository: Path = REPOSITORY) -> tuple[str, bool]:
    """The commit that is checked out, and whether the runtime differs from it."""
    changes = _git(repository, "status", "--porcelain", "--", RUNTIME)
    return resolve_revision("HEAD", repository), bool(changes)


def export_runtime(commit: str, folder: Path, repository: Path = REPOSITORY) -> Path:
    """Write the runtime of a commit below ``folder``; returns the folder to put on ``PYTHONPATH``.

    Raises:
        RequestError: the commit has no runtime.
    """
    archive = _git(repository, "archive", "--format=tar", commit, RUNTIME)
    if archive is None:
        raise RequestError(f"revision {commit[:12]} has no folder '{RUNTIME}'", "Choose a later revision")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder)
    return folder / RUNTIME


def _git(repository: Path, *arguments: str) -> bytes | None:
    """The output of a git command, or None if it failed."""
    try:
        inside = subprocess.run(["git", "-C", str(repository), "rev-parse", "--git-dir"], capture_output=True)
    except FileNotFoundError:
        raise RequestError("comparing revisions needs git", "Install git") from None
    if inside.returncode:
        raise RequestError(f"{repository} is not a git checkout", "Run mimo-bench from a clone of the repository")
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True)
    return None if done.returncode else done.stdout
