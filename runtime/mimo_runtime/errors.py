"""Errors that name what is wrong and what to do about it.

Every command turns a :class:`MimoError` into one line on standard error and its exit code; anything else is a bug and
keeps its traceback. No message may carry patient data: pass the option or the file's role, never DICOM values.
"""

from __future__ import annotations


class MimoError(Exception):
    """A failure with a known reason and a remedy.

    Args:
        what: what is wrong, naming the file or the option.
        remedy: what to do about it, as an imperative sentence. May be empty only where ``what`` already says it.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what.rstrip(".")
        self.remedy = remedy.rstrip(".")
        super().__init__(f"{self.what}. {self.remedy}." if self.remedy else f"{self.what}.")


class RequestError(MimoError):
    """The request itself was wrong: a bad file, option, prompt or text. Exit code 2, nothing was written."""

    exit_code = 2


class ImageError(RequestError):
    """An image cannot be read or is outside the supported limits."""


class DamagedImageError(ImageError):
    """A file that is meant as an image, and is damaged, cut off, or may not be read."""


class PromptError(RequestError):
    """A box, point, mask or text does not fit the image or the model."""


class BundleError(RequestError):
    """A bundle or checkpoint is missing, damaged, of another version, or built for another machine."""


class EngineError(MimoError):
    """An engine failed to load or to run. Exit code 1."""


class VerificationError(MimoError):
    """Parity, accuracy or a golden sample is outside its tolerance. Exit code 1."""


class BusyError(MimoError):
    """More callers than the gate holds (``Mimo.load(max_callers=, max_waiting=)``). Exit code 1; nothing was computed.

    Args:
        running: callers whose request runs.
        waiting: callers that wait.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self.running, self.waiting = running, waiting
        super().__init__(f"{running} callers run and {waiting} wait, the most that is allowed", "Try again later")

    def __reduce__(self) -> tuple[type[BusyError], tuple[int, int]]:
        return BusyError, (self.running, self.waiting)


class CancelledError(MimoError):
    """``should_stop`` ended a call that has no partial result. Exit code 1."""


class DeadlineError(CancelledError):
    """The deadline passed before the call, or during a call that has no partial result. Exit code 1."""


class MemoryLimitError(MimoError):
    """A call needs more memory than ``max_memory`` leaves. Exit code 1; nothing was computed."""
