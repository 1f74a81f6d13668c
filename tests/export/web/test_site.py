"""``mimo-export web``: what the folder holds, and what is refused."""

from __future__ import annotations

import io
import json
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("onnx")
import onnx_bundle
from click.testing import CliRunner

from mimo_export.cli import main
from mimo_export.web import library
from mimo_export.web.facts import GRAPHS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_bundle.write_bundle(tmp_path_factory.mktemp("bundle") / "fake")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An unpacked onnxruntime-web without contents."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": library.VERSION}))
    for name in library.FILES:
        (folder / "dist" / name).write_text(name)
    return folder


def export(*arguments: object):
    return CliRunner().invoke(main, ["web", *map(str, arguments)])


def test_the_site_holds_the_page_the_graphs_and_the_samples(bundle: Path, package: Path, tmp_path: Path):
    outcome = export(bundle, "-o", tmp_path / "site", "--onnxruntime-web", package)
    assert outcome.exit_code == 0, outcome.output
    site = tmp_path / "site"
    assert sorted(path.stem for path in (site / "graphs").iterdir()) == sorted(GRAPHS)
    facts = json.loads((site / "page/site.json").read_text())
    assert len(facts["samples"]) == 2 and facts["language"]["vocabulary"]["entities"][:2] == ["liver", "spleen"]
    index = (site / "index.html").read_text("utf-8")
    assert "'wasm-unsafe-eval'" in index and "DICOM" not in index and "unsafe-inline" not in index
    assert "export const connect" not in index and "local.js" in (site / "page/backend.js").read_text("utf-8")
    own = [path for path in (site / "page").rglob("*") if path.is_file() and path.suffix not in (".json", ".bin")]
    assert sum(path.stat().st_size for path in [*own, site / "index.html"]) < 300_000


def test_only_an_earlier_site_is_replaced(bundle: Path, package: Path, tmp_path: Path):
    site = tmp_path / "site"
    arguments = (bundle, "-o", site, "--onnxruntime-web", package)
    assert export(*arguments).exit_code == 0
    assert "not empty" in export(*arguments).output and export(*arguments, "--force").exit_code == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    assert export(bundle, "-o", other, "--onnxruntime-web", package, "--force").exit_code == 2


def test_another_version_of_the_library_is_refused(bundle: Path, package: Path, tmp_path: Path):
    (package / "package.json").write_text('{"version": "1.0.0"}')
    outcome = export(bundle, "-o", tmp_path / "site", "--onnxruntime-web", package)
    assert outcome.exit_code == 2 and "version 1.0.0" in outcome.output and not (tmp_path / "site").exists()
    outcome = export(bundle, "-o", tmp_path / "site", "--onnxruntime-web", tmp_path)
    assert "no unpacked onnxruntime-web" in outcome.output


def test_a_download_with_another_hash_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"another file"))
    outcome = export(bundle, "-o", tmp_path / "site")
    assert outcome.exit_code == 2 and "another hash" in outcome.output and not (tmp_path / "site").exists()


def test_a_bundle_without_golden_samples_is_refused(package: Path, tmp_path: Path):
    plain = onnx_bundle.write_bundle(tmp_path / "plain", golden=0)
    outcome = export(plain, "-o", tmp_path / "site", "--onnxruntime-web", package)
    assert outcome.exit_code == 2 and "no golden samples" in outcome.output
