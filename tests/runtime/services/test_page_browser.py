"""The page in Chromium, at the size of a desktop and of a phone, on a real ``mimo-run serve``."""

from __future__ import annotations

import hashlib
import json
import urllib.request
import zipfile
from pathlib import Path

import browser
import fakes
import pytest
from browser import DESKTOP, PHONE, Visit

pytest.importorskip("uvicorn")
import served
from served_process import Process

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    # A test that reads no log would stop the service once the pipe is full.
    server = Process(bundle_folder, "--log-level", "warning", cwd=tmp_path_factory.mktemp("service")).wait_ready()
    yield f"http://127.0.0.1:{server.port}/"
    server.kill()


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def visit(request: pytest.FixtureRequest, chromium, address: str):
    opened = Visit(chromium, address, request.param)
    yield opened
    opened.close()
    assert opened.problems == []


@pytest.fixture
def desk(chromium, address: str):
    opened = Visit(chromium, address)
    yield opened
    opened.close()
    assert opened.problems == []


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "scan.png"
    path.write_bytes(served.png(fakes.picture(240, 320)))
    return path


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("pydicom")
    from dicom_series import write_ct_series

    return write_ct_series(tmp_path_factory.mktemp("series"), order=[3, 1, 0, 2, 7, 6, 5, 4])


def test_a_box_brings_its_mask_and_undo_takes_it_away(visit: Visit, picture: Path):
    visit.open(picture)
    assert visit.coloured() == 0
    visit.drag((0.4, 0.4), (0.6, 0.6))
    visit.wait_answer()
    assert "referred region" in visit.text("#sentence") and "score" in visit.text("#findings")
    assert visit.coloured() > 500 and visit.text("#references").startswith("Box ")
    visit.page.click("#undo")
    visit.page.wait_for_selector("#answer", state="hidden")
    assert visit.page.locator("#references li").count() == 0 and visit.coloured() == 0
    visit.page.click("#redo")
    visit.wait_answer()
    assert visit.page.locator("#references li").count() == 1


def test_points_on_and_beside_the_target_are_drawn_and_removed(visit: Visit, picture: Path):
    visit.open(picture)
    for tool, place in (("plus", (0.5, 0.5)), ("minus", (0.3, 0.4))):
        visit.page.click(f"#tools [data-tool={tool}]")
        visit.page.mouse.click(*visit.place(*place))
        visit.wait_answer()
    assert [visit.page.locator("#references li").nth(i).inner_text()[:6] for i in range(2)] == ["On it ", "Not it"]
    visit.page.click("#references li:nth-child(2) button")
    visit.wait("#references:not(:has(> li:nth-child(2)))")


def test_a_finger_sets_a_point(chromium, address: str, picture: Path):
    visit = Visit(chromium, address, PHONE)
    visit.open(picture)
    visit.page.locator("#tools [data-tool=plus]").tap()
    visit.page.touchscreen.tap(*visit.place(0.5, 0.5))
    visit.wait_answer()
    assert visit.text("#references").startswith("On it")
    visit.close()


def test_an_image_that_the_service_has_forgotten_is_sent_again(desk: Visit, address: str, picture: Path):
    desk.open(picture)
    image = hashlib.sha256(picture.read_bytes()).hexdigest()
    assert urllib.request.urlopen(urllib.request.Request(f"{address}v1/images/{image}", method="DELETE")).status == 204
    desk.drag((0.4, 0.4), (0.6, 0.6))
    desk.wait_answer()
    desk.problems.clear()  # the browser reports the status 404


def test_a_rough_mask_is_painted_and_erased(desk: Visit, picture: Path):
    desk.open(picture)
    desk.page.click("#tools [data-tool=brush]")
    desk.drag((0.45, 0.5), (0.55, 0.5))
    desk.wait_answer()
    assert desk.text("#references").startswith("Rough mask")
    desk.page.click("#tools [data-tool=erase]")
    desk.page.fill("#brush", "60")
    desk.drag((0.3, 0.5), (0.7, 0.5))
    desk.page.wait_for_selector("#answer", state="hidden")
    assert desk.page.locator("#references li").count() == 0


def test_a_question_lights_its_mask_and_a_refusal_is_shown_plainly(visit: Visit, picture: Path):
    visit.open(picture)
    visit.page.fill("#text", "Where is the polyp?")
    visit.page.keyboard.press("Enter")
    visit.wait_answer()
    phrase = visit.page.locator("#sentence .phrase")
    assert phrase.inner_text() == "polyp"
    phrase.focus()
    visit.wait("#findings li.lit")
    visit.page.fill("#text", "Where is the unicorn?")
    visit.page.click("#go")
    visit.wait("#refusal:visible")
    assert "Not answered: unknown subject: “unicorn”" in visit.text("#refusal")
    visit.page.click("#refusal button:has-text('polyp') >> nth=0")
    visit.wait_answer()
    assert visit.page.input_value("#text") == "polyp"


def test_slices_of_a_series_and_their_window(visit: Visit, slices: list[Path]):
    visit.open(*slices)
    visit.wait("#slices:visible")
    assert visit.text("#slice-text") == "4 of 8 · 16.0 mm" and visit.page.input_value("#width") == "400"
    visit.page.mouse.move(*visit.place(0.5, 0.5))
    visit.page.mouse.wheel(0, 100)
    visit.wait("#canvas[aria-label*='slice 6']")
    visit.page.locator("#canvas").press("PageUp")
    visit.wait("#canvas[aria-label*='slice 5']")
    visit.drag((0.4, 0.4), (0.6, 0.6))
    visit.wait_answer()
    assert "mm²" in visit.text("#findings") and "mm" in visit.text("#references")
    visit.page.fill("#slice", "1")
    visit.page.wait_for_selector("#answer", state="hidden")
    visit.page.fill("#slice", "5")
    visit.wait_answer()
    visit.page.click("#tools [data-tool=window]")
    visit.drag((0.3, 0.5), (0.6, 0.5))
    assert float(visit.page.input_value("#width")) > 450 and visit.page.input_value("#centre") == "40"
    visit.page.click("#window-reset")
    assert visit.page.input_value("#width") == "400"


def test_a_zip_archive_is_opened_as_a_series(desk: Visit, slices: list[Path], tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in slices:
            archive.write(path, f"folder/{path.name}")
        archive.writestr("readme.txt", "no image")
    desk.open(tmp_path / "study.zip")
    desk.wait("#slices:visible")
    assert desk.text("#slice-text").startswith("4 of 8")


def test_files_that_cannot_be_read_are_refused_in_a_sentence(desk: Visit, tmp_path: Path):
    for name, data, words in (
        ("note.png", b"no image at all", "not an image that can be read"),
        ("broken.zip", b"PK\3\4" + b"x" * 40, "zip archive cannot be read"),
    ):
        (tmp_path / name).write_bytes(data)
        desk.page.set_input_files("#files", str(tmp_path / name))
        desk.wait(f"#alert:has-text('{words}')")
    desk.problems.clear()  # the browser reports the status 422


def test_teaching_hides_the_answer_until_the_learner_has_drawn(visit: Visit, picture: Path):
    visit.open(picture)
    visit.page.click("#teach")
    visit.page.fill("#text", "Where is the polyp?")
    visit.page.click("#go")
    visit.wait("#lesson-step:has-text('hidden. Now')")
    assert visit.page.locator("#answer").is_hidden() and visit.page.locator("#compare").is_disabled()
    assert visit.coloured() == 0
    visit.drag((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))
    visit.wait("#compare:enabled")
    assert visit.page.locator("#answer").is_hidden() and visit.coloured() == 0
    visit.page.click("#compare")
    visit.wait("#scores:visible")
    cells = visit.page.locator("#scores tbody td")
    assert visit.page.locator("#scores tbody th").first.inner_text() == "polyp"
    assert 0 < float(cells.first.inner_text()) < 1 and visit.page.locator("#answer").is_visible()
    assert visit.coloured() > 500
    visit.page.click("#again")
    visit.page.wait_for_selector("#answer", state="hidden")


def test_keys_alone_draw_a_box_undo_it_and_ask(desk: Visit, picture: Path):
    desk.open(picture)
    keys = desk.page.keyboard
    assert desk.page.evaluate("document.activeElement.id") == "canvas"
    for key in ("b", "ArrowUp", "Enter", *["Shift+ArrowDown"] * 3, *["Shift+ArrowRight"] * 3, "Enter"):
        keys.press(key)
    desk.wait_answer()
    assert desk.text("#references").startswith("Box 30 × 30 px")
    keys.press("Control+z")
    desk.page.wait_for_selector("#answer", state="hidden")
    for key in ("p", "Enter"):
        keys.press(key)
    desk.wait_answer()
    keys.press("Delete")
    desk.page.wait_for_selector("#answer", state="hidden")
    keys.press("/")
    keys.type("Where is the polyp?")
    keys.press("Enter")
    desk.wait_answer()
    for _ in range(12):
        keys.press("Tab")
        if "phrase" in desk.page.evaluate("document.activeElement.className"):
            break
    desk.wait("#findings li.lit")
    keys.press("?")
    desk.wait("#keys[open]")
    keys.press("Escape")
    desk.page.wait_for_selector("#keys", state="hidden")


def test_results_are_saved_as_files(desk: Visit, picture: Path, slices: list[Path], tmp_path: Path):
    pytest.importorskip("highdicom")
    desk.open(slices[0])
    desk.drag((0.4, 0.4), (0.6, 0.6))
    desk.wait_answer()
    saved = {}
    for label in ("PNG", "JSON", "SEG", "SR"):
        with desk.page.expect_download() as download:
            desk.page.get_by_role("button", name=label, exact=True).click()
        saved[label] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[label])
    assert saved["PNG"].read_bytes()[:4] == b"\x89PNG" and json.loads(saved["JSON"].read_text())["findings"]
    import pydicom

    assert pydicom.dcmread(saved["SEG"]).Modality == "SEG" and pydicom.dcmread(saved["SR"]).Modality == "SR"
    assert not any("SECRET" in path.name for path in saved.values())


def test_a_key_is_asked_for_and_kept_in_the_page_only(chromium, bundle_folder: Path, tmp_path: Path, picture: Path):
    (tmp_path / "keys").write_text("k" * 32)
    server = Process(bundle_folder, "--key-file", str(tmp_path / "keys"), cwd=tmp_path).wait_ready()
    try:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "k" * 32)
        page.keyboard.press("Enter")
        page.wait_for_selector("html[data-ready]")
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        context.close()
    finally:
        server.kill()


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_has_no_complaint(chromium, address: str, picture: Path, size: tuple[int, int], scheme: str):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    visit = Visit(chromium, address, size, scheme)
    try:
        complaints = [complaint(axe, visit)]
        visit.open(picture)
        visit.drag((0.4, 0.4), (0.6, 0.6))
        visit.wait_answer()
        complaints.append(complaint(axe, visit))
        visit.page.fill("#text", "Where is the unicorn?")
        visit.page.click("#clear")
        visit.page.click("#go")
        visit.wait("#refusal:visible")
        complaints.append(complaint(axe, visit))
        visit.page.click("#teach")
        complaints.append(complaint(axe, visit))
        assert complaints == [[]] * 4
        width = visit.page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0]  # nothing is wider than the screen
    finally:
        visit.close()


def complaint(axe, visit: Visit) -> list[str]:
    """What axe-core finds wrong: rule and elements."""
    found = axe.Axe().run(visit.page).response["violations"]
    return [f"{rule['id']}: {[node['html'] + node.get('failureSummary', '') for node in rule['nodes'][:3]]}" for rule in found]
