"""/draw in a real Chromium, before a real server: by mouse, finger, keyboard and file; what it shows and explains."""

import statistics
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route

from serving.config import ROOT
from tests.browser import DrawPage, needs_chromium
from tests.images import SMOKE
from tests.servers import java, serving_client, with_archives
from tests.strokes import WAYS, line, placed

pytestmark = needs_chromium

EXAMPLES = {
    "drawn.png": 5,
    "photographed.jpg": 4,
    "inverted.png": 8,
    "corner.png": 6,
    "two.png": None,
    "letter.png": None,
}
EXAMPLE_FOLDER = ROOT / "serving" / "page" / "examples"
LARGE, CORNER = (0.12, 0.12, 0.76), (0.76, 0.77, 0.2)
SCRIBBLE = [
    line(*[((0.15, 0.85)[turn % 2], 0.1 + 0.08 * turn) for turn in range(10)], (0.2, 0.1), (0.8, 0.85), (0.5, 0.1))
]


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("where", [LARGE, CORNER], ids=["large", "corner"])
def test_ten_digits_in_three_ways_are_read_soon(drawn: DrawPage, where: tuple[float, float, float]) -> None:
    read = [(digit, drawn.read(placed(way, *where))) for digit, ways in WAYS.items() for way in ways]
    right = [digit for digit, answer in read if answer["digit"] == digit]
    assert len(right) >= 28
    assert set(right) == set(range(10))
    assert all(answer["digit"] == digit for digit, answer in read[::3])  # the first way of each
    times = sorted(answer["ms"] for _, answer in read)
    print(
        f"{len(right)} of 30 right; {statistics.median(times):.0f} ms p50, {times[27]:.0f} ms p90 after a stroke's end"
    )
    assert statistics.median(times) <= 150


def test_a_dropped_a_chosen_and_a_pasted_image_are_read(drawn: DrawPage) -> None:
    drawn.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    drawn.drop(EXAMPLE_FOLDER / "photographed.jpg")
    drawn.says("said", "Read as 4")
    drawn.choose(SMOKE[7])
    drawn.says("said", "Read as 7")
    assert not drawn.page.locator(".camera").is_visible()
    drawn.paste(SMOKE[3])
    drawn.says("said", "Read as 3")
    drawn.page.evaluate("navigator.clipboard.writeText('no picture')")
    drawn.page.keyboard.press("Control+V")
    drawn.says("problem", "no picture in the clipboard")


def test_what_is_wrong_with_an_image_is_said_in_words(drawn: DrawPage, tmp_path: Path) -> None:
    drawn.page.click("#again")
    drawn.says("problem", "Blank: ")
    drawn.draw(SCRIBBLE)
    drawn.says("said", "not accepted: it may be no digit")
    assert drawn.text("problem") == ""
    (tmp_path / "note.txt").write_text("no picture")
    drawn.drop(tmp_path / "note.txt")
    drawn.says("problem", "Not read: ")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(17 * 2**20)
    drawn.drop(tmp_path / "large.png")
    drawn.says("problem", "Not sent: the picture has 17.0 MiB; at most 16.0 are read.")
    (tmp_path / "folder").mkdir()
    drawn.drop(tmp_path / "folder")
    drawn.says("problem", "Not sent: folder cannot be read")
    drawn.page.click("#clear")
    drawn.says("said", "Draw a digit")
    assert drawn.text("problem") == ""
    drawn.draw(placed(WAYS[1][0], 0.1, 0.2, 0.5) + placed(WAYS[3][0], 0.5, 0.2, 0.5))
    drawn.says("warnings", "more than one mark")


def test_every_example_shows_what_it_stands_for(drawn: DrawPage) -> None:
    files = {path.name for path in EXAMPLE_FOLDER.iterdir()}
    listed = drawn.page.locator("[data-example]").evaluate_all("found => found.map((each) => each.dataset.example)")
    assert set(listed) == files == set(EXAMPLES)
    for name, digit in EXAMPLES.items():
        drawn.page.evaluate("window.answers = []")
        drawn.page.click(f"[data-example='{name}']")
        drawn.until("window.answers.length > 0")
        assert digit is None or drawn.text("digit") == str(digit)
        assert ("not accepted" in drawn.text("said")) == (digit is None), name


def test_an_explanation_that_is_late_is_not_shown_beside_a_newer_answer(drawn: DrawPage) -> None:
    late: list[Route] = []
    questions = "**/draw/explanations*"
    drawn.page.route(questions, lambda route: late.append(route), times=1)
    with drawn.page.expect_request(questions):
        drawn.draw(placed(WAYS[7][0], *LARGE))
    drawn.says("said", "Read as 7")
    assert drawn.page.evaluate("document.body.classList.contains('unexplained')")
    drawn.page.click("#clear")
    drawn.draw(placed(WAYS[3][0], *LARGE))
    drawn.says("why-text", "Why 3")
    late[0].continue_()
    drawn.page.click("#again")
    drawn.says("said", "Read as 3")
    assert "Why 3" in drawn.text("why-text")


def test_undo_brings_back_what_was_there(drawn: DrawPage) -> None:
    drawn.choose(SMOKE[7])
    drawn.says("said", "Read as 7")
    drawn.draw(placed(WAYS[3][0], *LARGE))  # takes the picture's place
    drawn.says("said", "Read as 3")
    drawn.page.click("#clear")
    drawn.says("said", "Draw a digit")
    drawn.page.click("#undo")
    drawn.says("said", "Read as 3")
    drawn.page.click("#undo")
    drawn.says("said", "Draw a digit")
    drawn.page.click("#undo")
    drawn.says("said", "Read as 7")


def test_it_is_explained_and_so_is_why_it_is_no_other_digit(drawn: DrawPage) -> None:
    drawn.draw(placed(WAYS[7][0], *LARGE))
    drawn.says("why-text", "Why 7: red speaks for it")
    drawn.page.click("#bars button >> nth=3")
    drawn.says("why-text", "Why not 3: red speaks for it")
    assert drawn.page.locator("#bars [aria-pressed='true']").get_attribute("aria-label") == "3: 0.0%"
    inked = (
        "document.getElementById('{}').getContext('2d').getImageData(0, 0, 64, 64).data.filter((level) => level > {})"
    )
    assert drawn.page.evaluate(inked.format("framed", 128) + ".length") > 64 * 64 + 100  # ink, besides the opaque alpha


def test_a_digit_can_be_drawn_and_explained_by_keyboard(drawn: DrawPage) -> None:
    """A 7: to the left top, a line to the right, a slanted one down."""
    keys = drawn.page.keyboard

    def press(key: str, times: int) -> None:
        for _ in range(times):
            keys.press(key)

    keys.press("Tab")
    assert drawn.page.evaluate("document.activeElement.id") == "sheet"
    press("Shift+ArrowLeft", 3)
    keys.press("Space")
    drawn.says("said", "Pen down.")
    press("ArrowRight", 20)
    keys.down("ArrowDown")
    press("ArrowLeft", 5)
    keys.up("ArrowDown")
    press("ArrowDown", 12)
    keys.press("Space")
    drawn.says("said", "Read as 7")
    while drawn.page.evaluate("document.activeElement.closest('#bars') === null"):
        keys.press("Tab")
    keys.press("Enter")
    drawn.says("why-text", "Why not 0")
    drawn.page.focus("#sheet")
    for key, said in (
        ("Escape", "Draw a digit"),
        ("Control+z", "Read as 7"),
        ("Escape", "Draw a digit"),
        ("Meta+z", "Read as 7"),
        ("Backspace", "Draw a digit"),
    ):
        keys.press(key)
        drawn.says("said", said)


def test_a_phone_draws_with_a_finger_and_offers_its_camera(phone: DrawPage) -> None:
    phone.touch(placed(WAYS[2][0], *LARGE))
    phone.says("said", "Read as 2")
    phone.says("why-text", "Why 2")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 360
    box = phone.page.locator("#said").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 740  # the answer is in sight while a finger draws
    assert phone.page.locator(".camera").is_visible()
    assert phone.page.locator("#camera").get_attribute("capture") == "environment"
    phone.page.set_input_files("#camera", EXAMPLE_FOLDER / "photographed.jpg")
    phone.says("said", "Read as 4")


def test_the_page_is_accessible_in_every_state_and_moves_less_on_request(drawn: DrawPage, phone: DrawPage) -> None:
    for page in (drawn, phone):
        assert page.violations() == []
        page.page.click("[data-example='letter.png']")
        page.says("why-text", "Why 8")
        assert page.violations() == []
        page.page.evaluate("document.body.classList.add('old', 'unexplained')")  # as while the service is slow
        page.until("getComputedStyle(document.getElementById('why')).opacity === '0.45'")
        assert page.violations() == []
        page.page.click("#clear")
        page.page.click("#again")
        page.says("problem", "Blank")
        assert page.violations() == []
    drawn.page.emulate_media(reduced_motion="reduce")
    moves = "getComputedStyle(document.querySelector('.track span')).transitionDuration"
    assert drawn.page.evaluate(moves) == "0s"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_versions_are_switched_compared_and_missed_and_a_crash_is_waited_for(browser: Browser, tmp_path: Path) -> None:
    config = with_archives(tmp_path, "1.0", "1.1")
    with serving_client(config) as (process, client), browser.new_context() as context:
        drawn = DrawPage(context, config)
        assert drawn.page.locator("#compare").is_disabled()
        assert drawn.page.locator("#versions-hint").is_visible()
        drawn.draw(placed(WAYS[5][0], *LARGE))
        drawn.says("said", "Read as 5")
        client.register("digits-1.1.mar")
        drawn.page.evaluate("dispatchEvent(new Event('focus'))")  # as when a person comes back from the terminal
        drawn.page.click("#compare")
        drawn.says("compared-said", "Both read the same digit; probabilities differ by 0.0% at most.")
        rows = drawn.page.locator("#compared tbody tr").all_inner_texts()
        assert [row.split()[:2] for row in rows] == [["1.0", "5"], ["1.1", "5"]]
        assert drawn.violations() == []
        drawn.page.select_option("#version", "1.1")
        drawn.says("said", "Version 1.1.")
        assert drawn.page.locator("#other").input_value() == "1.0"  # the version asked is not compared with itself
        client.unregister("1.1")
        drawn.page.click("#again")
        drawn.says("problem", "Not registered any more: 1.1.")
        drawn.says("said", "Read as 5")
        drawn.says("said", "Version 1.0.")
        java(process).kill()
        drawn.page.click("#again")
        drawn.says("state", "Not ready: ")
        drawn.says("state", "Ready.")
        drawn.says("said", "Read as 5")
        drawn.until("!document.body.classList.contains('old')")


@pytest.mark.slow
def test_screenshots(drawn: DrawPage, phone: DrawPage, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """`make test ARGS="tests/test_draw_page.py --screenshots docs"` writes those of the README."""
    folder = Path(request.config.getoption("--screenshots") or tmp_path)
    drawn.draw(placed(WAYS[7][1], *LARGE))
    drawn.says("why-text", "Why 7")
    phone.page.click("[data-example='photographed.jpg']")
    phone.says("why-text", "Why 4")
    for page, name in ((drawn, "draw.png"), (phone, "draw-phone.png")):
        page.page.mouse.move(0, 0)
        page.page.evaluate("scrollTo(0, 0)")
        page.page.wait_for_timeout(300)  # the bars' movement
        page.page.screenshot(path=folder / name, full_page=page is drawn)
        assert (folder / name).stat().st_size > 10_000
