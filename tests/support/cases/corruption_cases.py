"""Helpers of the tests in tests/runtime/bundle."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mimo_runtime.bundle.manifest import spell, with_checksum
from mimo_runtime.bundle.schema import MANIFEST
from mimo_runtime.errors import BundleError, MimoError
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


class Reached(BaseException):
    """An engine was about to be created. No ``except Exception`` on the way may take it for a failure of the engine."""


def reaches_an_engine(path: Path, **options: Any) -> bool:
    """False: refused, with an error that names the bundle or what is wrong with it, and a remedy."""
    try:
        Mimo.load(path, **options)
    except Reached:
        return True
    except MimoError as error:
        assert isinstance(error, BundleError) and error.exit_code == 2, repr(error)
        assert error.what and error.remedy and "\n" not in str(error)
        return False
    raise AssertionError("loaded without an engine")


def write(folder: Path, changed: dict[str, Any]) -> None:
    """A manifest that is sealed and spelt as it should be, whatever it says."""
    (folder / MANIFEST).write_bytes(spell(with_checksum(changed)))


def flips(content: bytes, count: int, rng: random.Random) -> Iterator[tuple[int, bytes]]:
    """``(offset, content with another byte there)``: in turns one bit turned over, and any other byte."""
    for number in range(count):
        at = rng.randrange(len(content))
        change = 1 << rng.randrange(8) if number % 2 else rng.randrange(1, 256)
        yield at, content[:at] + bytes([content[at] ^ change]) + content[at + 1 :]


def change(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The manifest with another value at ``a/b/0``, where % stands for a slash in a name; ``...`` removes it."""
    changed: Any = copy.deepcopy(data)
    keys: list[Any] = [key.replace("%", "/") for key in path.split("/")]
    inner = changed
    for number, key in enumerate(keys):
        key = int(key) if isinstance(inner, list) else key
        if number + 1 < len(keys):
            inner = inner[key]
        elif value is ...:
            del inner[key]
        else:
            inner[key] = value
    return changed
