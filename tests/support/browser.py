"""Chromium, driven by Playwright, on the page of a running service."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DESKTOP, PHONE = (1280, 800), (390, 844)


@contextlib.contextmanager
def chromium() -> Iterator[object]:
    """A browser; skips the test where none is installed."""
    if PROGRAM is None:
        pytest.skip("no Chromium is installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Visit:
    """A page that a person has opened. Errors of its scripts and refusals of its policy are kept in ``problems``."""

    def __init__(self, browser, address: str, size: tuple[int, int] = DESKTOP, scheme: str = "dark") -> None:
        width, height = size
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == PHONE, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)  # against hanging
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")

    def open(self, *files: Path) -> None:
        """Choose files, and wait for the picture."""
        self.page.set_input_files("#files", [str(file) for file in files])
        self.page.wait_for_selector("#canvas:not([aria-label='No image'])")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates of the window at a share of the canvas."""
        box = self.page.locator("#canvas").bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag(self, start: tuple[float, float], end: tuple[float, float], *more: tuple[float, float]) -> None:
        """Draw with the mouse from ``start`` to ``end`` and on, in shares of the canvas."""
        self.page.mouse.move(*self.place(*start))
        self.page.mouse.down()
        for place in (end, *more):
            self.page.mouse.move(*self.place(*place), steps=4)
        self.page.mouse.up()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def wait(self, selector: str) -> None:
        self.page.wait_for_selector(selector)

    def wait_answer(self, findings: int = 1) -> None:
        """Until so many findings are listed and nothing is asked any more."""
        self.page.wait_for_selector(f"#findings:has(> li:nth-child({findings})):not(:has(> li:nth-child({findings + 1})))")
        self.page.wait_for_selector("#go:visible")

    def coloured(self) -> int:
        """Pixels of the canvas that are not grey: prompts and masks."""
        return self.page.evaluate(
            """() => {
              const canvas = document.getElementById("canvas");
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              let count = 0;
              for (let i = 0; i < data.length; i += 4) {
                count += Math.max(data[i], data[i + 1], data[i + 2]) - Math.min(data[i], data[i + 1], data[i + 2]) > 12;
              }
              return count;
            }"""
        )

    def close(self) -> None:
        self.context.close()
