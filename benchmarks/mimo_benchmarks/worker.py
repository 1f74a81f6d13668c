"""Each contender in a process of its own, so that none pays for another's threads, allocator or memory.

The parent asks one process at a time. The others are stopped (SIGSTOP) until their turn, with all their threads and children,
because an idle thread of an engine may spin. Systems without that signal let them wait on a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from mimo_runtime.errors import EngineError, MimoError

from .contenders import CONTENDERS, ContenderSetup, Sample
from .request import KINDS, Request

#: Whether processes can be stopped here.
CAN_STOP = all(hasattr(os, name) for name in ("killpg", "setpgid", "waitid")) and hasattr(signal, "SIGSTOP")


class Worker:
    """A contender in another process, which is stopped except in its turn. Use as a context manager.

    Raises:
        MimoError: the error of the contender's construction.
    """

    def __init__(self, name: str, setup: ContenderSetup) -> None:
        self.name = name
        #: The kinds of request that it answers.
        self.kinds = CONTENDERS[name].kinds
        self._has_turn = True
        # spawn: a forked process would inherit the parent's memory, and threads that no longer run.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, setup), name=f"mimo-bench {name}", daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._receive()
            self._stop()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let the process run within the context."""
        self._go_on()
        try:
            yield
        finally:
            self._stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Request, kind: str, *, findings: bool = False) -> Sample:
        """One timed request; ``findings``: whether the sample has them. Outside of :meth:`turn`, it is a turn of its own."""
        if not self._has_turn:
            with self.turn():
                return self.ask(request, kind, findings=findings)
        try:
            self._pipe.send((request, kind, findings))
        except OSError:
            raise self._died() from None
        return self._receive()

    def close(self) -> None:
        self._go_on()  # a stopped process does not end
        self._pipe.close()  # the process ends when its pipe does
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stop(self) -> None:
        self._has_turn = False
        if CAN_STOP:
            with suppress(ProcessLookupError, ChildProcessError):  # it has died: the next request says so
                os.killpg(self.pid, signal.SIGSTOP)
                # WNOWAIT leaves the exit code to multiprocessing.
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _go_on(self) -> None:
        self._has_turn = True
        if CAN_STOP:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGCONT)

    def _receive(self) -> Any:
        try:
            result = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(result, _Failure):
            raise result.error()
        return result

    def _died(self) -> EngineError:
        self._process.join(10)
        what = f"contender {self.name} died with exit code {self._process.exitcode}"
        return EngineError(what, "Read its messages above; -9 usually means that memory ran out")


class _Failure:
    """An exception on its way through the pipe: errors of two arguments do not survive pickling as they are."""

    def __init__(self, name: str, error: Exception) -> None:
        known = isinstance(error, MimoError)
        self.kind = type(error) if known else EngineError
        line = " ".join(str(error).split())[:400]
        self.what = error.what if known else f"contender {name} failed: {type(error).__name__}: {line}"
        self.remedy = error.remedy if known else f"Leave it out of --against, or report it with the version of {name}"

    def error(self) -> MimoError:
        return self.kind(self.what, self.remedy)


def _serve(pipe: Connection, name: str, setup: ContenderSetup) -> None:
    if CAN_STOP:
        # A group of its own: signals reach its children, and the system ends a stopped group whose parent has died.
        os.setpgid(0, 0)
    try:
        contender = CONTENDERS[name].make(setup)
        pipe.send("ready")
        while True:
            try:
                request, kind, findings = pipe.recv()
            except EOFError:
                return
            sample = contender.ask(request, KINDS[kind])
            if not findings:
                sample.findings = ()
            pipe.send(sample)
    except (KeyboardInterrupt, BrokenPipeError):  # the parent has died
        return
    except Exception as error:
        pipe.send(_Failure(name, error))
