"""What every command line of this project has in common: one line per error, and exit codes that tell.

0 done, 1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any, NoReturn

import click

from ..errors import MimoError

#: Which extra brings a package that a command may need: ``import`` name -> extra.
_EXTRA_OF = {
    "torch": "train", "safetensors": "train", "transformers": "train", "accelerate": "train", "matplotlib": "train",
    "rich": "train", "onnx": "export", "onnxscript": "export", "onnxslim": "export",
    "onnxruntime": "cpu", "openvino": "openvino", "pydicom": "dicom", "nibabel": "dicom", "psutil": "bench",
}  # fmt: skip


class Commands(click.Group):
    """A click group whose commands end in one line ``error: ...`` on standard error and an exit code, without a traceback.

    That holds for :class:`MimoError` and for what click itself refuses. Any other exception is a bug and keeps its traceback.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        _end_orderly()
        try:
            code = super().main(*args, standalone_mode=False, **kwargs)
        except MimoError as error:
            _leave(f"error: {error}", error.exit_code)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _EXTRA_OF:
                raise
            _leave(f"error: {package} is not installed. pip install 'mimo-edge[{_EXTRA_OF[package]}]'.", 2)
        except click.UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # click >= 8.2 raises the help text
                _leave(error.format_message(), 2)
            where = f" See '{error.ctx.command_path} --help'." if error.ctx else ""
            _leave(f"error: {' '.join(error.format_message().split()).rstrip('.')}.{where}", 2)
        except click.ClickException as error:
            _leave(f"error: {' '.join(error.format_message().split())}", 2)
        except (click.Abort, KeyboardInterrupt):
            _leave("error: interrupted.", 130)
        except BrokenPipeError:
            # The reader of our output left, as `head` does; Python must not complain when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def _end_orderly() -> None:
    """A program that is told to end (``kill``, a container that stops) leaves its blocks as on an error: what was half written
    goes. Without this, Python ends on the spot. ``kill -9`` cannot be caught; see ``atomic``."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _leave(line: str, code: int) -> NoReturn:
    click.echo(line, err=True)
    sys.exit(code)


def table(rows: list[tuple[str, ...]], indent: str = "  ") -> str:
    """Rows of text as aligned columns; the last column is not padded."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths))).rstrip() for row in rows)
