"""Opening of input files: every path that cannot be read is one short line, and pipes are read."""

from __future__ import annotations

import base64
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reader_cases import COLOURS, encode

from mimo_runtime.errors import ImageError
from mimo_runtime.imageio import files
from mimo_runtime.imageio.files import open_file, short_name
from mimo_runtime.imageio.masks import read_mask
from mimo_runtime.imageio.reader import read_image

PNG = encode(Image.fromarray(COLOURS))
READERS: list[Callable[..., object]] = [read_image, read_mask]


def refused(read: Callable[..., object], path: object) -> str:
    with pytest.raises(ImageError) as caught:
        read(path)
    text = str(caught.value)
    assert caught.value.remedy and caught.value.exit_code == 2
    assert len(text) <= 300 and text.isprintable(), text
    return text


@pytest.mark.parametrize("read", READERS)
def test_long_and_strange_paths_are_short_lines(read: Callable[..., object], tmp_path: Path) -> None:
    assert "no path" in refused(read, "a" * 300 + ".png")
    assert "no path" in refused(read, base64.b64encode(os.urandom(3000)).decode())
    assert "does not exist" in refused(read, "\n".join("ab" * 40))
    assert "does not exist" in refused(read, tmp_path / "\udcff\x1b[31m.png")
    assert "NUL" in refused(read, "a\0b")
    assert "does not exist" in refused(read, "")
    assert "folder" in refused(read, tmp_path)
    for address in ("https://example.org/scan.png", "data:image/png;base64," + "iVBORw0KGgo/" * 300):
        assert "address" in refused(read, address)


@pytest.mark.parametrize("read", READERS)
def test_links_that_lead_nowhere(read: Callable[..., object], tmp_path: Path) -> None:
    loop, dangling = tmp_path / "loop.png", tmp_path / "dangling.png"
    loop.symlink_to(loop)
    dangling.symlink_to("missing")
    assert "itself" in refused(read, loop)
    assert "does not exist" in refused(read, dangling)
    (tmp_path / "file").touch()
    assert "cannot be opened" in refused(read, tmp_path / "file" / "image.png")


@pytest.mark.parametrize("read", READERS)
def test_a_path_that_may_not_be_read(read: Callable[..., object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("builtins.open", denied)
    monkeypatch.setattr(os.path, "isdir", denied)
    assert "may not be read" in refused(read, tmp_path / "locked" / "scan.png")


def test_pipes_and_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(PNG,))
    writer.start()
    np.testing.assert_array_equal(read_image(pipe).pixels, COLOURS)
    writer.join()
    monkeypatch.setattr(files, "MAX_PIPE", 1000)
    assert "more than" in refused(read_image, "/dev/zero")
    assert "empty" in refused(read_image, "/dev/null")


def test_a_descriptor_of_a_process_is_read() -> None:
    """``/dev/stdin`` and shells' ``<(...)`` name descriptors."""
    reading, writing = os.pipe()
    os.write(writing, PNG)
    os.close(writing)
    np.testing.assert_array_equal(read_image(f"/dev/fd/{reading}").pixels, COLOURS)
    os.close(reading)


def test_dicom_comes_from_pipes(tmp_path: Path) -> None:
    data = pytest.importorskip("pydicom").data
    path = data.get_testdata_file("MR_small.dcm", download=False)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(Path(path).read_bytes(),))
    writer.start()
    assert read_image(pipe).sha256 == read_image(path).sha256
    writer.join()


def test_names_keep_their_end() -> None:
    assert short_name("scan.png") == "scan.png"
    long = short_name("/home/" + "x" * 500 + "/scan.png")
    assert len(long) == 100 and long.startswith("/home/") and long.endswith("/scan.png")
    assert short_name("a\nb\u202e\udcff") == "a\\nb\\u202e\\udcff"
    assert len(short_name("\n" * 10**6)) == 100


def test_the_file_is_closed() -> None:
    with open_file(__file__) as file:
        assert file.read(3) == b'"""'
    assert file.closed
