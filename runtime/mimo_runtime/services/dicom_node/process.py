"""A node as a process: signals, and watchdog notifications to systemd."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...utils.log import LOGGER
from ..logs import failure_fields, reload_reason
from ..systemd import Notifier, WatchdogNotifier
from .node import Node
from .rules import Rule
from .settings import Peer, WebStore

#: Seconds between two turns of the main thread.
_TURN_S = 0.2
LOG = LOGGER.getChild("node")


@dataclass(frozen=True)
class ReloadedSettings:
    """What files of a node say now.

    Args:
        rules: what is asked about what.
        return_to: where results go, with its header of authorization.
    """

    rules: Sequence[Rule]
    return_to: Peer | WebStore


def run(node: Node, on_open: Callable[[], None], reread: Callable[[], ReloadedSettings]) -> None:
    """Run a node until SIGTERM or SIGINT, in the main thread. SIGHUP loads bundle, rules, credentials and TLS files again.

    Args:
        on_open: called when the ports are open.
        reread: rules and receiver as they are now, at SIGHUP. Its errors are logged, so they have no path.

    Raises:
        MimoError: a port cannot be opened, the bundle cannot be served, or a rule does not fit the model.
    """
    stopped, again = threading.Event(), threading.Event()
    events = {"SIGTERM": stopped, "SIGINT": stopped, "SIGHUP": again}
    previous = {number: signal.signal(number, _setting(event)) for number, event in _numbers(events).items()}
    before, threading.excepthook = threading.excepthook, _log_thread
    try:
        node.start()
        on_open()
        _serve(node, stopped, again, reread)
        if node.problem is not None:
            raise node.problem
    finally:
        threading.excepthook = before
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve(node: Node, stopped: threading.Event, again: threading.Event, reread: Callable[[], ReloadedSettings]) -> None:
    notifier, reloading = Notifier(), threading.Thread()
    watchdog = WatchdogNotifier(notifier)
    while not stopped.is_set() and not node.wait_failed(_TURN_S):
        watchdog.tick(node.is_ready, node.is_alive)
        if again.is_set() and node.is_ready and not reloading.is_alive():
            again.clear()
            reloading = threading.Thread(target=_reload, args=(node, reread), name="mimo-reloading")
            reloading.start()
    notifier.send("STOPPING=1")
    node.stop()
    if reloading.is_alive():
        reloading.join()


def _reload(node: Node, reread: Callable[[], ReloadedSettings]) -> None:
    try:
        reloaded = reread()
        node.reload(reloaded.rules, reloaded.return_to)
    except Exception as error:
        LOG.error("nothing was loaded again: %s", reload_reason(error))


def _numbers(events: dict[str, threading.Event]) -> dict[int, threading.Event]:
    """Of the signals that this system has."""
    return {getattr(signal, name): event for name, event in events.items() if hasattr(signal, name)}


def _setting(event: threading.Event) -> Callable[[int, object], None]:
    return lambda number, frame: event.set()


def _log_thread(arguments: threading.ExceptHookArgs) -> None:
    """Exceptions of threads by type and place: their messages may quote what a sender wrote."""
    if arguments.exc_value is not None:
        LOG.error("a thread failed", extra={"fields": failure_fields(arguments.exc_value)})
