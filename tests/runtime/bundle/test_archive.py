from __future__ import annotations

import os
import shutil
import stat
import zipfile

import fakes
import numpy as np
import pytest

from mimo_runtime import loading
from mimo_runtime.bundle.archive import Bundle, pack
from mimo_runtime.errors import BundleError, RequestError
from mimo_runtime.pipeline import Mimo

onnx_bundle = pytest.importorskip("onnx_bundle", reason="needs onnx", exc_type=ImportError)


@pytest.fixture
def copy(bundle_folder, tmp_path):
    return shutil.copytree(bundle_folder, tmp_path / "copy")


@pytest.fixture
def archive(bundle_folder, tmp_path):
    pack(bundle_folder, tmp_path / "fake.mimo")
    return tmp_path / "fake.mimo"


@pytest.fixture
def no_engine(monkeypatch):
    """Fails the test if anything reaches an engine."""
    monkeypatch.setattr(loading, "create_engine", lambda *a, **k: pytest.fail("an engine was created"))


def ask(mimo):
    answer = mimo.open(fakes.picture()).ask("polyp", boxes=[(20, 10, 70, 40)])
    return answer.text, [(f.phrase, f.box, f.score, f.mask.tobytes()) for f in answer.findings]


def test_folder_and_single_file_give_the_same_answers(bundle_folder, archive):
    with Mimo.load(bundle_folder, threads=1) as mimo:
        expected = ask(mimo)
        assert mimo.info["id"] == "fake"
        assert {engine.name for engine in mimo.engines.values()} == {"onnxruntime"}
    with Mimo.load(archive) as mimo:
        assert ask(mimo) == expected
    # The sentence of the graph, with the words that its band of a mask decides.
    assert expected[0] == "Endoscopy of the colon: one medium elongated <p>polyp</p><seg> in the upper middle of the image."
    assert expected[1][0][0] == "polyp"


def test_reading_a_single_file_writes_nothing(archive, monkeypatch):
    before = sorted(os.listdir(archive.parent))
    monkeypatch.setattr(zipfile.ZipFile, "extract", None)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", None)
    Mimo.load(archive).close()
    assert sorted(os.listdir(archive.parent)) == before


def test_packing_is_reproducible(bundle_folder, archive, tmp_path):
    pack(bundle_folder, tmp_path / "again.mimo")
    assert (tmp_path / "again.mimo").read_bytes() == archive.read_bytes()


def test_bytes_of_listed_files_only(bundle_folder):
    bundle = Bundle.open(bundle_folder)
    assert bundle.bytes("tokenizer.json") == (bundle_folder / "tokenizer.json").read_bytes()
    assert "graphs/fusion.onnx" in bundle.names() and "manifest.json" not in bundle.names()
    with pytest.raises(BundleError, match="has no ../secret"):
        bundle.bytes("../secret")


def every_file(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.usefixtures("no_engine")
def test_one_flipped_byte_in_any_file_is_refused(copy):
    names = every_file(copy)
    assert len(names) > 12
    for name in names:
        path = copy / name
        good = path.read_bytes()
        for position in (0, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[position] ^= 0x20
            path.write_bytes(bad)
            # White space is the only part of a bundle without a meaning: the last newline of the manifest.
            if (name, position) == ("manifest.json", len(good) - 1):
                bad[position] = ord("x")
                path.write_bytes(bad)
            with pytest.raises(BundleError) as caught:
                Mimo.load(copy)
            assert name in str(caught.value) and "mimo-export build" in str(caught.value), (name, position)
        path.write_bytes(good)
    Bundle.open(copy)


@pytest.mark.usefixtures("no_engine")
def test_one_flipped_byte_in_a_single_file_is_refused(archive):
    good = archive.read_bytes()
    rng = np.random.default_rng(0)
    kept = []
    for position in [0, *rng.integers(0, len(good), 40), len(good) - 1]:
        bad = bytearray(good)
        bad[position] ^= 0x10
        archive.write_bytes(bad)
        try:
            bundle = Bundle.open(archive)
        except BundleError:
            continue
        # A zip archive has a few bytes without a meaning (time stamps, versions): what is read must still be right.
        kept.append(position)
        assert all(bundle.bytes(name) for name in bundle.names())
    assert len(kept) <= 3


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("name", ["graphs/fusion.onnx", "tokenizer.json", "golden/00/image.png", "report.md"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"incomplete: {name} is missing.*mimo-export build"):
        Mimo.load(copy)


@pytest.mark.usefixtures("no_engine")
def test_an_unlisted_file_is_refused(copy):
    (copy / "graphs/extra.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"holds 'graphs/extra.onnx', which its manifest does not list"):
        Mimo.load(copy)


@pytest.mark.usefixtures("no_engine")
def test_a_truncated_file_is_refused_by_its_size(copy):
    path = copy / "graphs/fusion.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="graphs/fusion.onnx has .* bytes instead of"):
        Mimo.load(copy)


@pytest.mark.usefixtures("no_engine")
def test_links_are_refused(copy, tmp_path):
    target = copy / "tokenizer.json"
    (tmp_path / "elsewhere.json").write_bytes(target.read_bytes())
    target.unlink()
    target.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match="tokenizer.json, which is a link"):
        Mimo.load(copy)


@pytest.mark.usefixtures("no_engine")
def test_a_linked_folder_is_refused(copy, tmp_path):
    (copy / "graphs").rename(tmp_path / "graphs")
    (copy / "graphs").symlink_to(tmp_path / "graphs")
    with pytest.raises(BundleError, match="graphs, which is a link"):
        Mimo.load(copy)


@pytest.mark.usefixtures("no_engine")
def test_a_file_changed_after_opening_is_refused(copy):
    bundle = Bundle.open(copy)
    path = copy / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"liver", b"river"))
    with pytest.raises(BundleError, match=r"tokenizer.json does not have the sha256"):
        Mimo.load(bundle)


@pytest.mark.usefixtures("no_engine")
def test_what_is_not_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="does not exist"):
        Mimo.load(tmp_path / "none")
    with pytest.raises(BundleError, match="has no manifest.json"):
        Mimo.load(tmp_path)
    (tmp_path / "x.mimo").write_bytes(b"not a zip")
    with pytest.raises(BundleError, match="damaged, or not a bundle"):
        Mimo.load(tmp_path / "x.mimo")


@pytest.mark.usefixtures("no_engine")
@pytest.mark.parametrize("kind", ["compressed", "link", "twice", "traversal", "truncated"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_could_do_harm_are_refused(bundle_folder, archive, tmp_path, kind):
    bad = tmp_path / "bad.mimo"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(bad, "w") as out:
        for info in source.infolist():
            data = source.read(info)
            if info.filename == "report.md" and kind == "compressed":
                out.writestr("report.md", data, zipfile.ZIP_DEFLATED)
            elif info.filename == "report.md" and kind == "link":
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                out.writestr(info, b"/etc/passwd")
            else:
                out.writestr(info, data)
        if kind == "twice":
            out.writestr("report.md", b"other")
        if kind == "traversal":
            out.writestr("../report.md", b"other")
    if kind == "truncated":
        bad.write_bytes(bad.read_bytes()[:-100])
    with pytest.raises(BundleError):
        Bundle.open(bad)


def test_another_machine_may_inspect_but_not_load(copy, monkeypatch):
    import json

    data = json.loads((copy / "manifest.json").read_text("utf-8"))
    data["compatibility"]["arch"] = "riscv64"
    onnx_bundle.reseal(copy, data)
    assert Bundle.open(copy, this_machine=False).manifest.target == "cpu"
    monkeypatch.setattr(loading, "create_engine", lambda *a, **k: pytest.fail("an engine was created"))
    with pytest.raises(BundleError, match="built for riscv64"):
        Mimo.load(copy)
    with pytest.raises(BundleError, match="built for riscv64"):
        Mimo.load(Bundle.open(copy, this_machine=False))


def test_a_foreign_tokenizer_is_refused(copy):
    from mimo_runtime.model.tokenizer import Tokenizer

    Tokenizer.train(["a"], 300, 4).save(copy / "tokenizer.json")
    onnx_bundle.reseal(copy)
    with pytest.raises(BundleError, match="tokenizer has"):
        Mimo.load(copy)


def test_load_refuses_unknown_devices_and_thread_counts(bundle_folder):
    with pytest.raises(RequestError, match="unknown device 'tpu'"):
        Mimo.load(bundle_folder, device="tpu")
    for threads in (0, -1, 10**9, 10**400, 1.5, True, "2"):
        with pytest.raises(RequestError, match="threads is .* Use a whole number from 1 to .*, or leave it out") as caught:
            Mimo.load(bundle_folder, threads=threads)
        assert len(str(caught.value)) < 120


def test_pack_refuses_a_damaged_bundle_and_leaves_nothing(copy, tmp_path):
    (copy / "report.md").write_text("changed")
    with pytest.raises(BundleError):
        pack(copy, tmp_path / "out.mimo")
    assert not list(tmp_path.glob("*.mimo*")) and not list(tmp_path.glob(".*"))
