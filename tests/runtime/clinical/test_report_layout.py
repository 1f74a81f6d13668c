"""The report in a browser: nothing is wider than a phone or an A4 page."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from clinical_cases import ct_result, disc

from mimo_runtime.clinical.comparison import compare
from mimo_runtime.clinical.report.content import report_of
from mimo_runtime.clinical.report.page import html_of
from mimo_runtime.clinical.study import Structure

pytest.importorskip("jinja2")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: CSS pixels: a phone, and the text of an A4 page at 96 dots an inch.
PHONE, A4 = 360, 794
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)")

FRAME = """<!DOCTYPE html><title>wait</title>
<iframe id="f" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<script>
const f = document.getElementById("f");
f.onload = () => {{
  const d = f.contentDocument.documentElement;
  const wide = [...d.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > {width} + 0.5);
  const images = [...d.querySelectorAll("img")].every(i => i.naturalWidth > 0 && i.clientWidth > 100);
  document.title = JSON.stringify([d.scrollWidth, wide.map(e => e.tagName).join(" "), images, d.innerText.length]);
}};
</script>"""


def page_of(long_words: bool = False) -> str:
    name = "n" * 90 if long_words else "liver lesion"
    before, now = (ct_result(structures=(Structure(name, {2: disc(radius=r)}, 0.9, False, tracking_id=name),)) for r in (12, 6))
    now = replace(now, sentences=("w" * 150 if long_words else "CT of the abdomen: one liver lesion.",), refusals=("x " * 90,))
    return html_of(report_of(now, compare(before, now), before))


def chromium(*arguments: str, folder: Path) -> str:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
               f"--user-data-dir={folder / 'profile'}", *arguments]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-1500:]
    return run.stdout


@pytest.mark.parametrize("width", [PHONE, A4])
@pytest.mark.parametrize("long_words", [False, True])
def test_nothing_is_wider_than_the_screen(width: int, long_words: bool, tmp_path: Path) -> None:
    (tmp_path / "frame.html").write_text(FRAME.format(width=width, page=html.escape(page_of(long_words))), "utf-8")
    shown = chromium("--dump-dom", "--virtual-time-budget=5000", f"file://{tmp_path}/frame.html", folder=tmp_path)
    title = re.search(r"<title>(.*?)</title>", html.unescape(shown))
    assert title is not None
    scroll, wide, images, letters = json.loads(title[1])
    assert scroll <= width and not wide and images and letters > 300


def test_it_prints_on_a4_pages(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page_of(), "utf-8")
    chromium(f"--print-to-pdf={tmp_path / 'out.pdf'}", f"file://{tmp_path}/report.html", folder=tmp_path)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", (tmp_path / "out.pdf").read_bytes())
    assert 1 <= len(boxes) <= 3
    for width, height in boxes:
        assert float(width) == pytest.approx(595.3, abs=1.5) and float(height) == pytest.approx(841.9, abs=1.5)
