"""Each contender in a process of its own, so that none pays for another's threads, allocator or memory.

The parent asks one process at a time; the others sleep on a pipe.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

from mimo_runtime.errors import EngineError, MimoError

from .contenders import CONTENDERS, ContenderSetup, Sample
from .request import KINDS, Request


class Worker:
    """A contender in another process. Use as a context manager.

    Raises:
        MimoError: the error of the contender's construction.
    """

    def __init__(self, name: str, setup: ContenderSetup) -> None:
        self.name = name
        # spawn: a forked process would inherit the parent's memory, and threads that no longer run.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, setup), name=f"mimo-bench {name}", daemon=True)
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Request, kind: str, *, findings: bool = False) -> Sample:
        """One timed request; ``findings``: whether the sample has them."""
        try:
            self._pipe.send((request, kind, findings))
        except OSError:
            raise self._died() from None
        return self._receive()

    def close(self) -> None:
        self._pipe.close()  # the process ends when its pipe does
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
    except KeyboardInterrupt:
        return
    except Exception as error:
        pipe.send(_Failure(name, error))
