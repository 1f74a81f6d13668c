"""``mimo-run serve`` and ``mimo-run node`` as units of ``Type=notify``: ready, alive, stopping."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from fake_clock import FakeClock
from waiting import PATIENCE_S

from mimo_runtime.services.systemd import Notifier, WatchdogNotifier

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.bind(address)

    def message(self) -> str:
        return self.socket.recv(4096).decode()


@pytest.fixture
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
    folder: Path = onnx_bundle.write_bundle(tmp_path_factory.mktemp("bundle") / "fake")
    return folder


def test_the_service_notifies_ready_watchdog_and_stopping(bundle_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    from served_process import Process

    manager = Manager(str(tmp_path / "notify"))
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    process = Process(bundle_folder, cwd=tmp_path, environment=environment)
    try:
        process.wait_ready()
        assert [manager.message() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
        process.process.send_signal(signal.SIGTERM)
        messages = iter(manager.message, "STOPPING=1")
        assert set(messages) <= {"WATCHDOG=1"}
    finally:
        process.kill()


def test_the_node_notifies_ready_watchdog_and_stopping(bundle_folder: Path, tmp_path: Path) -> None:
    from node_cases import NodeProcess

    manager = Manager(str(tmp_path / "notify"))
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "800000"}
    node = NodeProcess(bundle_folder, tmp_path / "data", "AWAY@127.0.0.1:9", "--ask", "liver", environment=environment)
    try:
        assert [manager.message() for _ in range(3)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
        assert node.stop() == 0
        messages = iter(manager.message, "STOPPING=1")
        assert set(messages) <= {"WATCHDOG=1"}
    finally:
        node.kill()


def test_a_program_that_is_stuck_sends_no_watchdog_notification(tmp_path: Path) -> None:
    manager, clock = Manager(str(tmp_path / "notify")), FakeClock()
    watchdog = WatchdogNotifier(Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}), clock)
    for is_ready, is_alive in ((False, True), (True, False), (True, True), (True, False), (True, True)):
        watchdog.tick(is_ready, is_alive)
        clock.now += 1.0
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send("end")
    assert list(iter(manager.message, "end")) == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]


def test_a_watchdog_notification_waits_for_half_of_the_interval(tmp_path: Path) -> None:
    manager, clock = Manager(str(tmp_path / "notify")), FakeClock()
    watchdog = WatchdogNotifier(Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}), clock)
    for seconds in (0.0, 0.25, 0.5, 0.25, 0.75, 0.25):  # since the call before: due at 0, 1, 2
        clock.now += seconds
        watchdog.tick(True, True)
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}).send("end")
    assert list(iter(manager.message, "end")) == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="abstract sockets are of Linux")
def test_an_abstract_socket_is_reached() -> None:
    name = f"mimo-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    Notifier({"NOTIFY_SOCKET": f"@{name}"}).send("READY=1")
    assert manager.message() == "READY=1"


@pytest.mark.parametrize(
    "environment, seconds",
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0), ({}, None), ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ],
)  # fmt: skip
def test_the_watchdog_is_notified_twice_in_its_interval(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environment).interval_s == seconds


def test_without_a_manager_or_with_a_lost_one_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).send("READY=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")
    assert list(tmp_path.iterdir()) == []
