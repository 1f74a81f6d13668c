"""Bundles that a model hub downloaded: links into its cache, and the files that it adds."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from mimo_runtime.bundle.archive import Bundle, pack
from mimo_runtime.errors import BundleError

pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)
pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


@pytest.fixture
def snapshot(bundle_folder, tmp_path) -> Path:
    """``snapshots/REVISION`` with links into ``blobs``, as ``huggingface_hub.snapshot_download`` leaves it."""
    blobs, root = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    for file in sorted(path for path in bundle_folder.rglob("*") if path.is_file()):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, blob)
        link = root / file.relative_to(bundle_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return root


def test_links_into_the_blobs_of_the_same_repository_are_followed(snapshot, bundle_folder, tmp_path):
    bundle = Bundle.open(snapshot)
    assert bundle.names() == Bundle.open(bundle_folder).names()
    pack(snapshot, tmp_path / "b.mimo")
    (tmp_path / "alias").symlink_to(snapshot)
    assert Bundle.open(tmp_path / "alias").names() == Bundle.open(tmp_path / "b.mimo").names() == bundle.names()


def test_a_blob_that_changed_is_refused(snapshot):
    blob = (snapshot / "graphs/fusion.onnx").resolve()
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(BundleError, match="graphs/fusion.onnx does not have the sha256"):
        Bundle.open(snapshot)


@pytest.mark.parametrize("kind", ["outside", "beside", "folder", "nowhere", "loop", "other repository"])
def test_links_that_leave_the_repository_are_refused(snapshot, tmp_path, kind):
    link = snapshot / "tokenizer.json"
    data, blobs = link.read_bytes(), snapshot.parents[1] / "blobs"
    targets = {
        "outside": tmp_path / "x.json", "beside": snapshot.parents[1] / "x.json", "folder": blobs, "nowhere": blobs / "none",
        "loop": link, "other repository": tmp_path / "models--c--d" / "blobs" / "x",
    }  # fmt: skip
    if kind in ("outside", "beside", "other repository"):
        targets[kind].parent.mkdir(parents=True, exist_ok=True)
        targets[kind].write_bytes(data)
    link.unlink()
    link.symlink_to(targets[kind])
    with pytest.raises(BundleError) as caught:
        Bundle.open(snapshot)
    assert "tokenizer.json" in str(caught.value)


def test_a_linked_folder_is_refused_within_a_snapshot_too(snapshot):
    (snapshot / "graphs").rename(snapshot.parents[1] / "blobs" / "graphs")
    (snapshot / "graphs").symlink_to("../../blobs/graphs")
    with pytest.raises(BundleError, match="graphs, which is a link"):
        Bundle.open(snapshot)


def test_what_a_hub_adds_to_a_repository_is_ignored_and_nothing_else(snapshot):
    for name in (".gitattributes", "README.md", ".cache/huggingface/download/tokenizer.json.metadata"):
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_text("x")
    Bundle.open(snapshot)
    (snapshot / "graphs/README.md").write_text("x")
    with pytest.raises(BundleError, match="'graphs/README.md', which its manifest does not list"):
        Bundle.open(snapshot)


def test_folders_nested_too_deep_are_refused(bundle_folder, tmp_path):
    folder = shutil.copytree(bundle_folder, tmp_path / "copy")
    deep = folder
    for _ in range(300):
        deep = deep / "d"
        deep.mkdir()
    with pytest.raises(BundleError, match="holds folders deeper than"):
        Bundle.open(folder)


def test_a_file_grown_to_gigabytes_is_refused_before_it_is_read(bundle_folder, tmp_path):
    for name in ("graphs/fusion.onnx", "tokenizer.json", "golden/00/image.png", "report.md"):
        folder = shutil.copytree(bundle_folder, tmp_path / name.replace("/", "-"))
        os.truncate(folder / name, 32 << 30)  # sparse
        with pytest.raises(BundleError, match=f"{name} has {32 << 30} bytes instead of"):
            Bundle.open(folder)
        shutil.rmtree(folder)
