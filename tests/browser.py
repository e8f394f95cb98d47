"""The draw page in Debian's Chromium, driven by Playwright: real strokes, drops, pastes and touches."""

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
SECONDS = 60.0  # timeout of the page; a restart while other tests run takes a while
# Measures the time from the end of a stroke to the first frame after its prediction, outside the page's own code.
OBSERVER = """
window.predictions = [];
addEventListener("pointerup", () => { window.ended = performance.now(); }, true);
addEventListener("DOMContentLoaded", () => {
  const result = document.getElementById("result");
  new MutationObserver(() => {
    const text = result.textContent, ended = window.ended;
    if (text.startsWith("Predicted")) {
      requestAnimationFrame(() => window.predictions.push({ digit: Number(text[10]), ms: performance.now() - ended }));
    }
  }).observe(result, { childList: true });
});
"""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not work as root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=root)
        yield browser
        browser.close()


class DrawPage:
    """The draw page of a server that is ready; collects the errors in its console."""

    def __init__(self, context: BrowserContext, config: Config) -> None:
        self.errors: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.page.add_init_script(OBSERVER)
        self.page.on("console", self._record_message)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(config.get_url("supervisor") + "/draw")
        expect(self.page.locator("#state")).to_have_text("Ready.", timeout=1000 * SECONDS)

    def _record_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def text(self, name: str) -> str:
        return self.page.locator(f"#{name}").inner_text()

    def wait_for_text(self, name: str, text: str) -> None:
        """Wait until the element contains the text."""
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
        """Return the strokes in pixels of the page; the canvas is a unit square."""
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None
        return [[(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke] for stroke in strokes]

    def predict(self, strokes: Sequence[Stroke]) -> dict[str, Any]:
        """Clear the canvas and draw; return the predicted digit and the ms from the last stroke to the prediction."""
        self.page.click("#clear")
        self.page.evaluate("window.predictions = []")
        self.draw(strokes[:-1])
        self.wait_until(f"window.predictions.length >= {len(strokes) - 1}")
        self.draw(strokes[-1:])
        self.wait_until(f"window.predictions.length >= {len(strokes)}")
        prediction: dict[str, Any] = self.page.evaluate("window.predictions.at(-1)")
        return prediction

    def wait_until(self, expression: str) -> None:
        """Wait until the expression is true; Playwright's method evaluates strings, which the page's policy forbids."""
        deadline = time.monotonic() + SECONDS
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"{expression}: timed out; {self.text('problem')}"

    def choose(self, png: bytes) -> None:
        """Choose an image with the page's button."""
        self.page.set_input_files("#file", {"name": "image.png", "mimeType": "image/png", "buffer": png})

    def drop(self, path: Path) -> None:
        """Drop a file from outside the browser onto the page."""
        session = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})

    def paste(self, png: bytes) -> None:
        """Paste an image from the clipboard with Ctrl-V."""
        write = """async (data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const image = new Blob([bytes], { type: "image/png" });
          await navigator.clipboard.write([new ClipboardItem({ "image/png": image })]);
        }"""
        self.page.evaluate(write, b64encode(png).decode())
        self.page.keyboard.press("Control+V")

    def find_outline(self) -> list[int]:
        """Return left, top, right and bottom of the outlines of digits on the canvas, in its pixels."""
        outline: list[int] = self.page.evaluate("""() => {
          const canvas = document.getElementById("canvas"), xs = [], ys = [];
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          for (let i = 0; i < data.length; i += 4) {
            if (data[i + 2] < data[i] + 100) continue;
            xs.push((i / 4) % canvas.width);
            ys.push(Math.floor(i / 4 / canvas.width));
          }
          return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
        }""")
        return outline

    def find_violations(self) -> list[str]:
        """Return axe's findings against WCAG and best practices, including minor ones."""
        violations = Axe().run(self.page).response["violations"]
        return [
            f"{violation['impact']} {violation['id']}: {[node['html'] for node in violation['nodes']]}"
            for violation in violations
        ]
