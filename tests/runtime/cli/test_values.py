"""Values of options that are no numbers, or far outside their range: one line, before the work."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mimo_runtime.cli.commands import main

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

HUGE = "1" + "0" * 400
#: Values that no option takes.
WRONG = (
    "",
    "x",
    "--",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "-1e9",
    "1,2",
    "1,2,3,4",
    "9" * 5000,
    "-" + HUGE,
    "\ud800",
    "1\0",
    "0x10",
)
OPTIONS = {
    "--box": ("nan,1,2,3", "1,2,3", "1e400,0,1,1", f"{HUGE},0,1,1", "4,4,1,1", "-5,-5,-1,-1", "1,,2,3", "1,2,3,4,5"),
    "--point": ("nan,1", "1,2,3", "1,2,nan", "1,2,-1", "1,2,3,4", "1e400,1", "5000,5000", "1,2,0.5"),
    "--max-tokens": ("0", "-1", "1e9", "1.5", HUGE),
    "--temperature": ("-0.1", HUGE),
    "--seed": ("-1", "1.5"),
    "--top-k": ("-1", "1.5"),
    "--top-p": ("0", "1.01", "2", HUGE),
    "--frame": ("1", "-1", "1.5", HUGE),
    "--threads": ("0", "-1", "1.5", "2147483648", HUGE),
    "--device": ("tpu",),
}


def ask(bundle: Path, image: Path, *options: str):
    return CliRunner().invoke(main, ["predict", str(bundle), str(image), *options])


@pytest.mark.parametrize("option", OPTIONS)
def test_a_wrong_value_is_one_line(option: str, bundle_folder: Path, image_file: Path):
    sampled = ("--temperature", "0.7") if option in ("--seed", "--top-k", "--top-p") else ()
    taken = {"--box": ("1,2,3,4",), "--point": ("1,2",)}.get(option, ())
    for value in (*(v for v in WRONG if v not in taken), *OPTIONS[option]):
        result = ask(bundle_folder, image_file, "--text", "polyp", *sampled, option, value)
        line = result.stderr.removesuffix("\n")
        assert isinstance(result.exception, SystemExit) and result.exit_code == 2, (value[:20], result.output, result.exception)
        assert line.startswith("error: ") and line.isprintable() and len(line) <= 300 and result.stdout == "", (
            value[:20],
            line,
        )


@pytest.mark.parametrize("text", ["", " ", "\ud800", "a\0b", "x" * 100_000])
def test_a_text_that_cannot_be_read_is_one_line(text: str, bundle_folder: Path, image_file: Path):
    result = ask(bundle_folder, image_file, "--text", text)
    assert result.exit_code in (0, 2) and result.stderr.count("\n") == result.exit_code // 2
    assert len(result.stderr) <= 301
