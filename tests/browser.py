"""Debian's Chromium on the page to draw on, driven by Playwright: real strokes, drops, pastes and touches."""

import os
import shutil
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from serving.config import Config
from tests.strokes import Stroke

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 60.0  # until the page shows something; a restart beside other tests takes a while
# The times from the end of each stroke to the first frame after its answer, taken from outside of the page's own code.
WATCH = """
window.answers = [];
addEventListener("pointerup", () => { window.ended = performance.now(); }, true);
addEventListener("DOMContentLoaded", () => {
  const said = document.getElementById("said");
  new MutationObserver(() => {
    const text = said.textContent, ended = window.ended;
    if (text.startsWith("Read as")) {
      requestAnimationFrame(() => window.answers.push({ digit: Number(text[8]), ms: performance.now() - ended }));
    }
  }).observe(said, { childList: true });
});
"""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root's sandbox
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        yield browser
        browser.close()


class DrawPage:
    """The page of a server, ready; notes what its console says, and everything the browser is sent."""

    def __init__(self, context: BrowserContext, config: Config) -> None:
        self.errors: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.page.add_init_script(WATCH)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(config.get_url("supervisor") + "/draw")
        expect(self.page.locator("#state")).to_have_text("Ready.", timeout=1000 * SECONDS)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").inner_text()

    def says(self, name: str, text: str) -> None:
        """Waits until the element says so."""
        expect(self.page.locator(f"#{name}")).to_contain_text(text, timeout=1000 * SECONDS)

    def draw(self, strokes: Sequence[Stroke]) -> None:
        """Draw with the mouse."""
        for first, *others in self._place(strokes):
            self.page.mouse.move(*first)
            self.page.mouse.down()
            for place in others:
                self.page.mouse.move(*place)
            self.page.mouse.up()

    def touch(self, strokes: Sequence[Stroke]) -> None:
        """Draw with a finger."""
        session = self.page.context.new_cdp_session(self.page)
        for stroke in self._place(strokes):
            for kind, (x, y) in zip(["touchStart"] + ["touchMove"] * len(stroke), stroke, strict=False):
                session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def _place(self, strokes: Sequence[Stroke]) -> list[Stroke]:
        """Return the strokes in pixels of the page; the sheet is a unit square."""
        box = self.page.locator("#sheet").bounding_box()
        assert box is not None
        return [[(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke] for stroke in strokes]

    def read(self, strokes: Sequence[Stroke]) -> dict[str, Any]:
        """What is read of the strokes on a cleared sheet, and the ms from the end of the last to the answer."""
        self.page.click("#clear")
        self.page.evaluate("window.answers = []")
        self.draw(strokes[:-1])
        self.until(f"window.answers.length >= {len(strokes) - 1}")
        self.draw(strokes[-1:])
        self.until(f"window.answers.length >= {len(strokes)}")
        answer: dict[str, Any] = self.page.evaluate("window.answers.at(-1)")
        return answer

    def until(self, expression: str) -> None:
        """Waits until it is true; Playwright's own waiting evaluates strings, which the page's policy forbids."""
        deadline = time.monotonic() + SECONDS
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression}: waited in vain; {self.text('problem')}"

    def choose(self, png: bytes) -> None:
        """Choose an image by the page's own button."""
        self.page.set_input_files("#file", {"name": "image.png", "mimeType": "image/png", "buffer": png})

    def drop(self, path: Path) -> None:
        """A file from outside of the browser, in the middle of the page."""
        session = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})

    def paste(self, png: bytes) -> None:
        """Through the clipboard, by Ctrl-V."""
        write = """async (data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const picture = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
        }"""
        self.page.evaluate(write, b64encode(png).decode())
        self.page.keyboard.press("Control+V")

    def violations(self) -> list[str]:
        """What axe finds against WCAG and good practice, minor matters as well."""
        found = Axe().run(self.page).response["violations"]
        return [f"{each['impact']} {each['id']}: {[node['html'] for node in each['nodes']]}" for each in found]
