"""Where the registered phantoms are kept: in a folder that no other user can prepare."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mimo_runtime.errors import RequestError
from mimo_train.data.phantom import registered

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="users of POSIX")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this user among temporary files, which does not exist yet; no phantoms are generated."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(registered, "generate", lambda folder, *_: folder)
    return tmp_path / f"mimo-edge-{os.getuid()}"


def test_the_folder_is_for_this_user_alone(place: Path) -> None:
    assert registered.phantoms().parents[1] == place
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)
    registered.phantoms()
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["another user", "link", "file"])
def test_what_another_user_prepared_is_refused(place: Path, kind: str, monkeypatch) -> None:
    if kind == "link":
        (place.parent / "elsewhere").mkdir()
        place.symlink_to(place.parent / "elsewhere")
    elif kind == "file":
        place.touch()
    else:
        other = os.getuid() + 1
        (place.parent / f"mimo-edge-{other}").mkdir()
        monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(RequestError, match="is a link or belongs to another user. Set XDG_CACHE_HOME"):
        registered.phantoms()


def test_a_chosen_folder_is_used_as_it_is(place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert registered.phantoms().parents[1] == tmp_path / "cache" and not place.exists()
