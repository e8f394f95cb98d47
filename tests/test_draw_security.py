"""/draw in a real Chromium: what pages of other origins cannot do, and what the browser never gets."""

from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

from playwright.sync_api import Browser, Response
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from serving.config import TOKENS, Config
from serving.connection import read_key
from serving.draw_page import PageGuard
from tests.browser import DrawPage, needs_chromium
from tests.pictures import SMOKE
from tests.servers import wait_for
from tests.strokes import WAYS, placed

pytestmark = needs_chromium

LARGE = (0.12, 0.12, 0.76)


class Elsewhere(BaseHTTPRequestHandler):
    """Another site's page, which has its visitor's browser ask ours in every way that needs no consent."""

    target = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        page = f"""<!doctype html><title>elsewhere</title><iframe name=inside src="{self.target}/draw"></iframe>
          <form method=post target=answered enctype=text/plain action="{self.target}/draw/predictions">
          <input name=a value=b></form><iframe name=answered></iframe>"""
        self.wfile.write(page.encode())

    def log_message(self, *_: object) -> None:
        pass


ATTEMPTS = """async ([target, data]) => {
  const body = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const ask = (path, options) => fetch(target + path, options).then((told) => told.text());
  const asked = [
    ask("/draw/predictions", { method: "POST", body, mode: "no-cors" }),
    ask("/draw/predictions", { method: "POST", body }),
    ask("/draw/predictions", { method: "POST", body, headers: { "X-Any": "1" } }),
    ask("/draw/state"),
  ];
  const got = (await Promise.allSettled(asked)).map((each) => each.value ?? "blocked");
  document.forms[0].submit();
  return got;
}"""


def test_a_page_of_another_origin_can_not_use_it(browser: Browser, server: Config, monkeypatch: Any) -> None:
    """Neither is it told anything, nor is a picture of its read; `asked` is what reached the server, and its answer."""
    asked: list[tuple[str, str, int]] = []
    guard = PageGuard.__call__

    async def record(self: PageGuard, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] == "POST":
                asked.append((scope["path"], Headers(scope=scope)["origin"], message["status"]))
            await send(message)

        await guard(self, scope, receive, send_and_record)

    monkeypatch.setattr(PageGuard, "__call__", record)
    Elsewhere.target = server.url("supervisor")
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere, browser.new_context() as context:
        Thread(target=elsewhere.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{elsewhere.server_port}"
        opened = context.new_page()
        opened.goto(origin)
        got = opened.evaluate(ATTEMPTS, [Elsewhere.target, b64encode(SMOKE[7]).decode()])
        wait_for(lambda: len(asked) == 3)
        elsewhere.shutdown()
        inside = opened.frame("inside")
        assert inside is not None
        assert inside.locator("#sheet").count() == 0
    assert got == ["blocked"] * 4
    assert (
        asked == [("/draw/predictions", origin, 403)] * 3
    )  # the third fetch was not even sent: its header is asked for


def test_no_token_reaches_the_browser(browser: Browser, server: Config) -> None:
    tokens = [read_key(server.key_file, kind) for kind in TOKENS]
    with browser.new_context() as context:
        seen: list[str] = []
        responses: list[Response] = []
        context.on("response", lambda told: responses.append(told))
        drawn = DrawPage(context, server)
        drawn.draw(placed(WAYS[7][0], *LARGE))
        drawn.says("why-text", "Why 7")
        drawn.page.click("#clear")
        drawn.page.click("#again")
        drawn.says("problem", "Blank")
        for each in responses:
            seen += [str(each.request.all_headers()), str(each.all_headers()), each.body().decode("latin-1")]
        seen += [drawn.page.content(), drawn.page.evaluate("JSON.stringify({ ...localStorage, ...sessionStorage })")]
        assert context.cookies() == []
    assert any("probabilities" in each for each in seen)
    assert not [token for token in tokens if any(token in each for each in seen)]
