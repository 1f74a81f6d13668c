"""The page without a service in Chromium: real graphs in onnxruntime-web on WebAssembly, one thread."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import browser
import fakes
import numpy as np
import pytest
from browser import DESKTOP, PHONE, Visit
from dicom_cases import as_bytes, dataset
from domain_points import statistics_of
from static_site import ISOLATED, serving

pytest.importorskip("onnx")
import onnx_bundle
import served

from mimo_export.web.site import write_site
from mimo_runtime.errors import RequestError
from mimo_runtime.model.config import ContourCalibration, PresenceCalibration
from mimo_runtime.pipeline import Mimo

#: With all that is computed beside the graphs.
CONFIG = replace(
    fakes.CONFIG,
    crop_scale=2.0, full_image_weight=0.1, modalities=("ct", "endoscopy"),
    contours=tuple(
        ContourCalibration(name, kind, 2.0, 2.5, 40) for name, kind in (("", "box"), ("", "mask"), ("polyp", "box"))
    ),
    presence_calibration=(PresenceCalibration("", 0.1, 40),), entity_modalities=(("ct",),) * 3 + (("endoscopy",),) * 2,
)  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    bundle = onnx_bundle.write_bundle(folder / "fake", config=CONFIG, domain=statistics_of({"endoscopy": [0.06, 0.08]}))
    try:
        write_site(bundle, folder / "site")
    except RequestError as error:
        if "cannot be downloaded" in str(error):
            pytest.skip("the npm registry is out of reach")
        raise
    return folder / "site"


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "scan.png"
    path.write_bytes(served.png(fakes.picture(240, 320)))
    return path


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_box_and_a_name_are_answered_after_the_self_test(chromium, site: Path, picture: Path, size: tuple[int, int]):
    with serving(site) as address:
        visit = Visit(chromium, address, size)
        assert "2 golden samples passed" in visit.page.locator("#model").text_content()
        visit.open(picture)
        visit.drag((0.4, 0.4), (0.6, 0.6))
        visit.wait_answer()
        assert visit.text("#findings").startswith("referred region") and visit.coloured() > 500
        assert "refined" in visit.text("#findings") and "holds for 90 % of the masks" in visit.text("#legend")
        assert "like those of the training (nearest: endoscopy)" in visit.text("#domain")
        visit.page.fill("#text", "unicorn")
        visit.page.click("#go")
        visit.wait("#warnings:has-text('does not know')")
        visit.page.fill("#text", "Is there a unicorn?")
        visit.page.click("#go")
        visit.wait("#refusal:has-text('unknown subject')")
        assert visit.page.locator("#downloads button").all_inner_texts() == ["PNG", "JSON"]
        assert visit.problems == []
        visit.close()


def test_a_typed_question_has_the_sentence_of_the_runtime(chromium, site: Path, picture: Path):
    texts = (
        "Where is the liver?", "how large is the livr in this picture", "Is there a spleen or a fracture?", "die Leber",
        "What lies below the liver?", "Where is the spleen relative to the liver?",
    )  # fmt: skip
    refused = ("Where is the unicorn?", "Wo ist die Leber?", "How large is it?", "sjkdfh 12 ?", "Is the liver enlarged?")
    with Mimo.load(site.parent / "fake") as mimo:
        scan = mimo.open(picture)
        # The draft gives the kind of image and the region. The page has no draft.
        expected = {text: "Image:" + scan.ask(text).plain_text.partition(":")[2] for text in texts}
        expected |= {text: scan.ask(text).plain_text for text in refused}
    with serving(site) as address:
        visit = Visit(chromium, address)
        visit.open(picture)
        for text, sentence in expected.items():
            visit.page.fill("#text", text)
            visit.page.click("#go")
            visit.page.wait_for_function("(s) => document.querySelector('#sentence').textContent === s", arg=sentence)
            assert visit.page.locator("#refusal:visible").count() == (text in refused)
        visit.page.click("#refusal button:has-text('What do you see?')")
        # The nearest images of the training are of endoscopy, which never shows a liver.
        visit.wait("#sentence:has-text('Image: none of the structures that this model knows is visible.')")
        visit.page.fill("#text", "Where is the liver?")
        visit.page.click("#go")
        visit.page.hover("#sentence .phrase")
        visit.wait("#findings li.lit:has-text('liver')")
        visit.page.fill("#text", "liver")
        visit.page.select_option("#modality", "endoscopy")
        visit.page.click("#go")
        visit.wait("#sentence:has-text('Endoscopy: no liver is visible.')")
        assert visit.problems == []
        visit.close()


def test_a_page_that_is_isolated_runs_the_graphs_with_threads(chromium, site: Path, picture: Path):
    with serving(site, ISOLATED) as address:
        visit = Visit(chromium, address)
        assert visit.page.evaluate("crossOriginIsolated") and "2 golden samples passed" in visit.text("#model")
        # The worker of the page has further workers, one a thread.
        assert len(visit.page.workers) > 1 or visit.page.evaluate("navigator.hardwareConcurrency") == 1
        visit.open(picture)
        visit.drag((0.4, 0.4), (0.6, 0.6))
        visit.wait_answer()
        assert visit.text("#findings").startswith("referred region") and visit.problems == []
        visit.close()


def test_other_formats_are_refused_with_the_remedy(chromium, site: Path, tmp_path: Path):
    (tmp_path / "scan.nii").write_bytes(b"\x5c\x01" + bytes(400))
    (tmp_path / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with serving(site) as address:
        visit = Visit(chromium, address)
        visit.page.set_input_files("#files", str(tmp_path / "scan.nii"))
        visit.wait("#alert:has-text('Other formats need the service')")
        visit.page.set_input_files("#files", str(tmp_path / "scan.dcm"))
        visit.wait("#alert:has-text('damaged, or of a kind that only the service reads')")
        visit.close()


def test_dicom_files_have_windows_millimetres_and_their_modality(chromium, site: Path, tmp_path: Path):
    values = (fakes.picture(240, 320)[..., 0].astype(np.uint16) * 10) + 24
    elements = {"Modality": "CT", "RescaleIntercept": "-1024", "PixelSpacing": ["0.5", "0.25"]}
    for name, pixels in (("a", values), ("b", values[::-1].copy())):
        (tmp_path / f"{name}.dcm").write_bytes(as_bytes(dataset(pixels, **elements)))
    (tmp_path / "notes.bin").write_bytes(b"no image")
    with serving(site) as address:
        visit = Visit(chromium, address)
        visit.open(*(tmp_path / name for name in ("a.dcm", "b.dcm", "notes.bin")))
        assert "2 slices" in visit.text("#status") and "1 files are no images" in visit.text("#status")
        assert visit.page.input_value("#centre") == "40" and visit.page.input_value("#width") == "400"
        assert "ct" in visit.page.get_attribute("#canvas", "aria-label") and not visit.page.is_visible("#modality")
        visit.page.fill("#width", "50")
        visit.page.press("#width", "Tab")
        visit.page.wait_for_function("document.getElementById('width').value === '50'")
        visit.drag((0.4, 0.4), (0.6, 0.6))
        visit.wait("#refusal:has-text('out of domain')")
        visit.wait_answer()
        assert "mm²" in visit.text("#findings") and "mm" in visit.text("#references")
        assert visit.problems == []
        visit.close()


def test_an_image_unlike_those_of_the_training_gets_a_mask_and_no_name(chromium, site: Path, tmp_path: Path):
    (tmp_path / "white.png").write_bytes(served.png(np.full((64, 64, 3), 255, np.uint8)))
    with serving(site) as address:
        visit = Visit(chromium, address)
        visit.open(tmp_path / "white.png")
        visit.page.fill("#text", "polyp")
        visit.page.click("#go")
        visit.wait("#refusal:has-text('out of domain')")
        assert "unlike those of the training" in visit.text("#domain") and not visit.text("#findings")
        visit.drag((0.4, 0.4), (0.6, 0.6))
        visit.wait_answer()
        assert visit.text("#findings").startswith("referred region") and visit.page.locator("#refusal:visible").count() == 1
        visit.page.click("#refusal button")
        visit.wait("#findings:has-text('polyp')")
        assert visit.problems == []
        visit.close()


def test_a_stated_modality_leaves_out_what_it_never_shows(chromium, site: Path, picture: Path):
    with serving(site) as address:
        visit = Visit(chromium, address)
        visit.open(picture)
        visit.page.select_option("#modality", "ct")
        visit.page.fill("#text", "polyp")
        visit.page.click("#go")
        visit.wait("#refusal:has-text('out of domain')")
        visit.page.click("#refusal button")
        visit.wait_answer()
        assert "not found" in visit.text("#findings") and "excluded with the stated miss rate" in visit.text("#findings")
        assert "another kind of image" in visit.text("#domain")
        visit.close()


@pytest.mark.parametrize("what", ["score", "mask", "outer", "refined", "domain", "graph"])
def test_a_page_that_computes_something_else_gives_no_answer(chromium, site: Path, tmp_path: Path, what: str):
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    facts = json.loads((copy / "page/site.json").read_text())
    finding = next(f for sample in facts["samples"] for f in sample["findings"] if f["present"])
    if what == "score":
        finding["score"] -= 0.03
    elif what in ("mask", "outer"):
        finding[what]["counts"] = [sum(finding[what]["counts"])]
    elif what == "refined":
        finding["refined"] = not finding["refined"]
    elif what == "domain":
        (copy / "page/domain.bin").write_bytes(bytes(len((copy / "page/domain.bin").read_bytes())))
    else:
        (copy / "graphs/mask_decoder.onnx").write_bytes(b"damaged")
    (copy / "page/site.json").write_text(json.dumps(facts))
    with serving(copy) as address:
        tab = chromium.new_page()
        tab.goto(address)
        tab.wait_for_selector(
            "#alert:has-text('The model failed')" if what == "graph" else "#alert:has-text('gives no answers')"
        )
        assert tab.locator("html[data-ready]").count() == 0
        tab.set_input_files("#files", str(copy / "page/icon.svg"))
        assert tab.get_attribute("#canvas", "aria-label") == "No image"
        tab.close()
