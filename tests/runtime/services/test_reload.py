"""API keys that are read again on a signal: new ones count together with the bundle, a broken file changes nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")
from waiting import wait_for

from mimo_runtime.services.settings import ApiKeys

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP")
OLD, NEW, ADMIN, NEW_ADMIN = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)
KEPT = "nothing was loaded again: "


def status_with(server, key: str) -> int:
    return server.request("GET", "/v1/model", Authorization=f"Bearer {key}")[0]


def status_of_swap(server, key: str, admin: str) -> int:
    return server.request("POST", "/v1/bundle", b"", Authorization=f"Bearer {key}", X_Admin_Key=admin)[0]


def generation(server, key: str) -> int:
    return server.request("GET", "/v1/model", Authorization=f"Bearer {key}")[1]["generation"]


def hang_up(server, event: str) -> None:
    """SIGHUP, and the wait for one more line of the log with the event."""
    before = len(server.lines)
    os.kill(server.process.pid, signal.SIGHUP)
    wait_for(lambda: "loaded again" in "".join(server.lines[before:]))
    assert "".join(server.lines[before:]).count("loaded again") == 1 and event in "".join(server.lines[before:])


def test_on_a_signal_keys_are_replaced_or_kept(start, tmp_path: Path):
    keys, admin = tmp_path / "the-keys", tmp_path / "the-admin-keys"
    keys.write_text(OLD)
    admin.write_text(ADMIN)
    server = start("--key-file", str(keys), "--admin-key-file", str(admin))
    assert (status_with(server, OLD), status_with(server, NEW)) == (200, 401)
    for content, reason in ((b"", "is empty"), (b"short", "shorter than 16"), (b"\xff\xfe", "cannot be read: it is no text")):
        keys.write_bytes(content)
        hang_up(server, KEPT)
        assert reason in server.lines[-1]
        assert (status_with(server, OLD), generation(server, OLD)) == (200, 1)
    keys.write_text(NEW)
    admin.unlink()
    hang_up(server, "the file of keys cannot be read: No such file or directory")
    assert (status_with(server, OLD), status_with(server, NEW), generation(server, OLD)) == (200, 401, 1)
    admin.write_text(NEW_ADMIN)
    hang_up(server, "bundle, API keys and TLS files were loaded again")
    assert (status_with(server, OLD), status_with(server, NEW), generation(server, NEW)) == (401, 200, 2)
    assert (status_of_swap(server, NEW, ADMIN), status_of_swap(server, NEW, NEW_ADMIN)) == (401, 200)
    assert server.stop() == 0
    assert not any(word in server.log for word in (OLD, NEW, ADMIN, NEW_ADMIN, "the-keys", "the-admin", "Traceback"))


def test_a_bundle_that_fails_keeps_the_keys(start, tmp_path: Path, bundle_folder: Path):
    import shutil

    bundle, keys = tmp_path / "a-bundle", tmp_path / "keys"
    shutil.copytree(bundle_folder, bundle)
    keys.write_text(OLD)
    server = start("--key-file", str(keys), bundle=bundle)
    keys.write_text(NEW)
    (bundle / "manifest.json").write_text("{")
    hang_up(server, KEPT + "the bundle cannot be served (BundleError)")
    assert (status_with(server, OLD), status_with(server, NEW)) == (200, 401)


def test_keys_that_are_used_replace_all_earlier_ones(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text(f"{OLD}\n{ADMIN}\n")
    keys = ApiKeys.read(file)
    keys.use(ApiKeys((NEW,)))
    assert keys.file == file and [keys.accept(key) for key in (OLD, ADMIN, NEW)] == [False, False, True]
