"""What every command line of this project has in common: one line per error, exit codes, and names of earlier releases.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import NoReturn

import click

from ..errors import MimoError, VerificationError
from ..utils.deprecation import reported_field_warnings
from ..utils.untyped import Untyped
from .os_errors import describe_os_error
from .streams import discard_output, one_line, prepare_streams

#: Which extra brings a package that a command may need: ``import`` name -> extra.
_EXTRA_OF = {
    "torch": "train", "safetensors": "train", "transformers": "train", "accelerate": "train", "matplotlib": "train",
    "skimage": "train", "scipy": "train",
    "onnx": "export", "onnxscript": "export", "onnxslim": "export",
    "onnxruntime": "cpu", "openvino": "openvino", "pydicom": "dicom", "nibabel": "dicom", "psutil": "bench",
    "starlette": "server", "uvicorn": "server", "python_multipart": "server", "prometheus_client": "server",
    "pynetdicom": "pacs",
    "ray": "ray", "pyarrow": "batch", "dicomweb_client": "batch",
}  # fmt: skip


class Option(click.Option):
    """An option that is also read under names of earlier releases; see :class:`Command`.

    Args:
        earlier: those names, e.g. ``"--no-closer"``. A warning on standard error gives the current name.
    """

    def __init__(self, *args: Untyped, earlier: tuple[str, ...] = (), **kwargs: Untyped) -> None:
        super().__init__(*args, **kwargs)
        self.earlier = earlier


class Command(click.Command):
    """A command that replaces earlier option names before it parses its arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        current = {old: option.opts[0] for option in self.params if isinstance(option, Option) for old in option.earlier}
        options = args[: args.index("--")] if "--" in args else args
        for position, argument in enumerate(options):
            name, equals, value = argument.partition("=")
            if name in current:
                _warn_renamed(name, current[name])
                args[position] = current[name] + equals + value
        return super().parse_args(ctx, args)


class OneLineErrors(click.Command):
    """A program whose errors end in one line ``error: ...`` on standard error and an exit code, without a traceback.

    That holds for :class:`MimoError`, for what click itself refuses and for what the system refuses (OSError). Every other
    exception is a bug and keeps its traceback.
    """

    def main(  # type: ignore[override]  # an overload of two in click
        self, args: Sequence[str] | None = None, prog_name: str | None = None, standalone_mode: bool = True, **extra: Untyped
    ) -> Untyped:
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        _end_orderly()
        prepare_streams()
        arguments = list(sys.argv[1:] if args is None else args)
        if any("\0" in argument for argument in arguments):
            _leave("error: an argument has a null character. Leave it out.", 2)
        try:
            with reported_field_warnings(lambda message: click.echo(f"warning: {one_line(message)}.", err=True)):
                code = super().main(args, prog_name, standalone_mode=False, **extra)
        except VerificationError as error:  # may list what missed, a line each
            _leave(f"error: {error}", error.exit_code, is_report=True)
        except MimoError as error:
            _leave(f"error: {error}", error.exit_code)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _EXTRA_OF:
                raise
            _leave(f"error: {package} is not installed. pip install 'mimo-edge[{_EXTRA_OF[package]}]'.", 2)
        except click.UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # click >= 8.2 raises the help text
                click.echo(error.format_message(), err=True)
                sys.exit(2)
            where = f" See '{error.ctx.command_path} --help'." if error.ctx else ""
            message = one_line(error.format_message(), 200).rstrip(".")
            _leave(f"error: {message}{'' if message.endswith('?') else '.'}{where}", 2)
        except click.ClickException as error:
            _leave(f"error: {error.format_message()}", 2)
        except (click.Abort, KeyboardInterrupt):
            _leave("error: interrupted.", 130)
        except BrokenPipeError:
            # The reader of our output left, as `head` does.
            discard_output()
            sys.exit(1)
        except OSError as error:
            _leave(*describe_os_error(error, arguments))
        except UnicodeEncodeError as error:
            if error.encoding != sys.getfilesystemencoding():
                raise
            message = f"a file name has characters that the locale's encoding, {error.encoding}, does not have"
            _leave(f"error: {message}. Set LC_ALL=C.UTF-8.", 1)
        sys.exit(code if isinstance(code, int) else 0)


class Commands(OneLineErrors, click.Group):
    """A program of several commands.

    Args:
        renamed: commands by the name that they had in earlier releases.
    """

    command_class = Command

    def __init__(self, *args: Untyped, renamed: Mapping[str, str] | None = None, **kwargs: Untyped) -> None:
        super().__init__(*args, **kwargs)
        self.renamed = dict(renamed or {})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.renamed:
            _warn_renamed(cmd_name, self.renamed[cmd_name])
        return super().get_command(ctx, self.renamed.get(cmd_name, cmd_name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the first sentence of each, which click would cut at the end of the line."""
        commands = [(name, super(Commands, self).get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(1000)) for name, command in commands if command and not command.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class Program(OneLineErrors, Command):
    """A command that is a program of its own: ``python -m PACKAGE.MODULE``."""


def _end_orderly() -> None:
    """SIGTERM (``kill``, a container that stops) and SIGHUP (a terminal that closes) end the program as an error does.

    So half-written files are removed; without this, Python ends on the spot. A signal that is ignored stays so, as under
    ``nohup``. ``kill -9`` cannot be caught; see ``utils.atomic``.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, frame: sys.exit(128 + received))


def _warn_renamed(earlier: str, current: str) -> None:
    click.echo(f"warning: {earlier} is deprecated, use {current}.", err=True)


def _leave(message: str, code: int, *, is_report: bool = False) -> NoReturn:
    print_error(*message.splitlines() if is_report else [message])
    sys.exit(code)


def print_error(*lines: str) -> None:
    """Write lines of at most 300 characters each on standard error, if that can still be written."""
    with contextlib.suppress(OSError):
        for line in lines:
            click.echo(line[: len(line) - len(line.lstrip())] + one_line(line), err=True)
    discard_output()
