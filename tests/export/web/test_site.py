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
def packages(tmp_path: Path) -> Path:
    """A folder with unpacked libraries without contents."""
    for one in library.LIBRARIES:
        folder = tmp_path / "packages" / one.name
        (folder / "dist").mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"name": one.name, "version": one.version}))
        for name in one.files:
            (folder / name).write_text(name)
    return tmp_path / "packages"


def export(*arguments: object, packages: Path | None = None):
    options = [] if packages is None else [f"--{one.name}={packages / one.name}" for one in library.LIBRARIES]
    return CliRunner().invoke(main, ["web", *map(str, arguments), *options])


def test_the_site_holds_the_page_the_graphs_and_the_samples(bundle: Path, packages: Path, tmp_path: Path):
    outcome = export(bundle, "-o", tmp_path / "site", packages=packages)
    assert outcome.exit_code == 0, outcome.output
    site = tmp_path / "site"
    assert sorted(path.stem for path in (site / "graphs").iterdir()) == sorted(GRAPHS)
    facts = json.loads((site / "page/site.json").read_text())
    assert len(facts["samples"]) == 2 and facts["language"]["vocabulary"]["entities"][:2] == ["liver", "spleen"]
    index = (site / "index.html").read_text("utf-8")
    assert "'wasm-unsafe-eval'" in index and "NIfTI" not in index and "unsafe-inline" not in index
    assert "export const connect" not in index and "local.js" in (site / "page/backend.js").read_text("utf-8")
    own = [path for path in (site / "page").rglob("*") if path.is_file() and path.suffix not in (".json", ".bin")]
    assert sum(path.stat().st_size for path in [*own, site / "index.html"]) < 300_000


def test_only_an_earlier_site_is_replaced(bundle: Path, packages: Path, tmp_path: Path):
    site = tmp_path / "site"
    arguments = (bundle, "-o", site)
    assert export(*arguments, packages=packages).exit_code == 0
    assert "not empty" in export(*arguments, packages=packages).output
    assert export(*arguments, "--force", packages=packages).exit_code == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    assert export(bundle, "-o", other, "--force", packages=packages).exit_code == 2


@pytest.mark.parametrize("name", [one.name for one in library.LIBRARIES])
def test_another_version_of_a_library_is_refused(bundle: Path, packages: Path, tmp_path: Path, name: str):
    for content, words in (
        ({"name": name, "version": "1.0.0"}, f"{name} 1.0.0"), ({"name": "other", "version": "9"}, "other 9"), ([], name),
    ):  # fmt: skip
        (packages / name / "package.json").write_text(json.dumps(content))
        outcome = export(bundle, "-o", tmp_path / "site", packages=packages)
        assert outcome.exit_code == 2 and words in outcome.output and not (tmp_path / "site").exists()
    (packages / name / "package.json").unlink()
    assert f"no unpacked {name}" in export(bundle, "-o", tmp_path / "site", packages=packages).output


def test_a_download_with_another_hash_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"another file"))
    outcome = export(bundle, "-o", tmp_path / "site")
    assert outcome.exit_code == 2 and "another hash" in outcome.output and not (tmp_path / "site").exists()


def test_a_bundle_without_golden_samples_is_refused(packages: Path, tmp_path: Path):
    plain = onnx_bundle.write_bundle(tmp_path / "plain", golden=0)
    outcome = export(plain, "-o", tmp_path / "site", packages=packages)
    assert outcome.exit_code == 2 and "no golden samples" in outcome.output
