"""Standard streams that cannot take every character, or nothing at all. Each command runs as a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)

#: Echoes its argument as a sentence, as JSON or as an error.
ECHO = """
import click
from mimo_runtime.cli.app import Commands
from mimo_runtime.cli.json_output import print_json
from mimo_runtime.errors import RequestError

@click.group(cls=Commands)
def main(): ...

@main.command()
@click.argument("text")
def say(text): click.echo(text)

@main.command()
@click.argument("text")
def json(text): print_json({text: [text]}, indent=1)

@main.command()
@click.argument("text")
def fail(text): raise RequestError(f"'{text}' is wrong", "Write another")

main()
"""
TEXTS = ("polyp", "Köpfchen", "心脏", "\N{GREEK SMALL LETTER MU}m \N{HEAVY BLACK HEART}", "\N{GRINNING FACE}")
ENCODINGS = ("ascii", "cp1252", "cp437", "latin-1", "shift_jis", "utf-8", "ascii:strict")


def program(*arguments: object, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment: str):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], stdout=stdout, stderr=stderr, env={**os.environ, **environment}, timeout=300
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_stream_gets_what_its_encoding_can_take(encoding: str):
    codec = encoding.partition(":")[0]
    text = " ".join(TEXTS)
    said, as_json, failed = (
        program("-c", ECHO, command, text, PYTHONIOENCODING=encoding, PYTHONUTF8="0") for command in ("say", "json", "fail")
    )
    assert (said.returncode, as_json.returncode, failed.returncode) == (0, 0, 2)
    assert said.stdout.decode(codec).rstrip("\r\n") == text.encode(codec, "replace").decode(codec)
    assert json.loads(as_json.stdout.decode(codec)) == {text: [text]}
    assert failed.stderr.decode(codec).startswith("error: 'polyp K") and failed.stderr.count(b"\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
def test_half_a_character_is_replaced_in_a_text_and_escaped_in_json():
    name = os.fsdecode(b"scan-\xff.png")
    said, as_json = (program("-c", ECHO, command, name, PYTHONUTF8="1") for command in ("say", "json"))
    assert said.stdout.decode("utf-8") == "scan-?.png\n" and said.returncode == 0
    assert json.loads(as_json.stdout.decode("ascii")) == {name: [name]}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_answer_is_not_lost_for_its_characters(bundle_folder: Path, image_file: Path, tmp_path: Path, encoding: str):
    ask = ("-m", "mimo_runtime", "predict", bundle_folder, image_file, "--text", "心脏", "--box", "20,10,70,40")
    as_json = program(*ask, "--json", PYTHONIOENCODING=encoding)
    assert as_json.returncode == 0, as_json.stderr
    assert json.loads(as_json.stdout.decode(encoding))["findings"][0]["phrase"]
    assert program(*ask, "-o", tmp_path / "out", PYTHONIOENCODING=encoding).returncode == 0
    assert json.loads((tmp_path / "out/answer.json").read_text("utf-8"))["findings"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("say", "polyp"), ("json", "polyp"), ("--help",), ("say", "--help"), ()])
def test_a_full_disk_behind_standard_output_is_one_line(arguments: tuple[str, ...]):
    with open("/dev/full", "wb") as full:
        done = program("-c", ECHO, *arguments, stdout=full)
        both = program("-c", ECHO, *arguments, stdout=full, stderr=full)
    if arguments:  # without arguments the help goes to standard error
        assert done.returncode == both.returncode == 1
        assert done.stderr.decode() == "error: No space left on device. Make room, or name another place.\n"
    assert b"Traceback" not in done.stderr and both.returncode in (1, 2)


def test_a_full_disk_behind_standard_error_keeps_the_exit_code():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        assert program("-c", ECHO, "fail", "polyp", stderr=full).returncode == 2


def test_errors_are_one_printable_line_of_at_most_300_characters():
    for text in ("x" * 5000, "two\nlines\tand \x1b[31mcolour\x07", "心" * 1000):
        done = program("-c", ECHO, "fail", text, PYTHONUTF8="1")
        line = done.stderr.decode("utf-8").removesuffix("\n")
        assert done.returncode == 2 and len(line) <= 300 and line.isprintable()
        assert line.startswith("error: '") and line.endswith("is wrong. Write another.")
