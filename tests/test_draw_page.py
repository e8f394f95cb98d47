"""/draw in a real Chromium with a real server: input by mouse, finger, keyboard and file; predictions, explanations."""

import statistics
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route

from serving.config import ROOT
from tests.browser import DrawPage, needs_chromium
from tests.images import SMOKE
from tests.servers import configure_with_archives, find_java, run_server
from tests.strokes import STYLES, line, scale_strokes

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
def test_ten_digits_in_three_styles_are_predicted_quickly(desktop: DrawPage, where: tuple[float, float, float]) -> None:
    predictions = [
        (digit, desktop.predict(scale_strokes(style, *where))) for digit, styles in STYLES.items() for style in styles
    ]
    right = [digit for digit, prediction in predictions if prediction["digit"] == digit]
    assert len(right) >= 28
    assert set(right) == set(range(10))
    assert all(prediction["digit"] == digit for digit, prediction in predictions[::3])  # the first style of every digit
    times = sorted(prediction["ms"] for _, prediction in predictions)
    print(f"{len(right)} of 30 right; {statistics.median(times):.0f} ms p50, {times[27]:.0f} ms p90 after a stroke")
    assert statistics.median(times) <= 150


def test_a_dropped_a_chosen_and_a_pasted_image_are_predicted(desktop: DrawPage) -> None:
    desktop.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    desktop.drop(EXAMPLE_FOLDER / "photographed.jpg")
    desktop.wait_for_text("result", "Predicted 4")
    desktop.choose(SMOKE[7])
    desktop.wait_for_text("result", "Predicted 7")
    assert not desktop.page.locator(".camera").is_visible()
    desktop.paste(SMOKE[3])
    desktop.wait_for_text("result", "Predicted 3")
    desktop.page.evaluate("navigator.clipboard.writeText('no image')")
    desktop.page.keyboard.press("Control+V")
    desktop.wait_for_text("problem", "no image in the clipboard")


def test_an_invalid_image_is_explained_in_plain_words(desktop: DrawPage, tmp_path: Path) -> None:
    desktop.page.click("#predict")
    desktop.wait_for_text("problem", "Not read: ")
    desktop.draw(SCRIBBLE)
    desktop.wait_for_text("result", "rejected: it may not be a digit")
    assert desktop.text("problem") == ""
    (tmp_path / "note.txt").write_text("no image")
    desktop.drop(tmp_path / "note.txt")
    desktop.wait_for_text("problem", "Invalid image: ")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(17 * 2**20)
    desktop.drop(tmp_path / "large.png")
    desktop.wait_for_text("problem", "Not sent: the image has 17.0 MiB; the limit is 16.0.")
    (tmp_path / "folder").mkdir()
    desktop.drop(tmp_path / "folder")
    desktop.wait_for_text("problem", "Not sent: folder cannot be read")
    desktop.page.click("#clear")
    desktop.wait_for_text("result", "Draw a digit")
    assert desktop.text("problem") == ""
    desktop.draw(scale_strokes(STYLES[1][0], 0.1, 0.2, 0.5) + scale_strokes(STYLES[3][0], 0.5, 0.2, 0.5))
    desktop.wait_for_text("warnings", "More than one shape")


def test_every_example_gets_its_prediction(desktop: DrawPage) -> None:
    files = {path.name for path in EXAMPLE_FOLDER.iterdir()}
    listed = desktop.page.locator("[data-example]").evaluate_all(
        "buttons => buttons.map((button) => button.dataset.example)"
    )
    assert set(listed) == files == {*EXAMPLES, "number.png"}
    for name, digit in EXAMPLES.items():
        desktop.page.evaluate("window.predictions = []")
        desktop.page.click(f"[data-example='{name}']")
        desktop.wait_until("window.predictions.length > 0")
        assert digit is None or desktop.text("digit") == str(digit)
        assert ("rejected" in desktop.text("result")) == (digit is None), name


def test_a_number_is_read_and_its_digits_are_outlined_until_the_content_changes(desktop: DrawPage) -> None:
    page, content = desktop.page, "document.getElementById('canvas').toDataURL()"
    page.click("[data-example='number.png']")
    desktop.wait_for_text("result", "Read 4071")
    page.click("#digits button >> nth=2")
    assert page.locator("#digits [aria-pressed='true']").inner_text() == "7"
    assert (page.locator("#frame").is_visible(), desktop.find_violations()) == (False, [])
    assert desktop.find_outline() == pytest.approx([40, 199, 427, 293], abs=2)  # where number.png has its digits
    outlined = page.evaluate(content)
    page.focus("#number")
    page.keyboard.press("Space")
    desktop.wait_for_text("result", "Predicted")
    assert page.evaluate(content) != outlined
    page.click("#clear")
    page.check("#number")
    desktop.wait_for_text("result", "Draw a number")


@pytest.mark.parametrize("width", [320, 360, 600, 768, 1024, 1920])
def test_every_example_can_be_reached_at_any_width(desktop: DrawPage, width: int) -> None:
    desktop.page.set_viewport_size({"width": width, "height": 800})
    clipped = """buttons => buttons.filter((button) => {
      const box = button.getBoundingClientRect(), strip = button.parentElement.getBoundingClientRect();
      return box.left < strip.left || box.right > strip.right || button.scrollWidth > button.clientWidth;
    }).length"""
    assert desktop.page.locator("[data-example]").evaluate_all(clipped) == 0
    assert desktop.page.evaluate("document.documentElement.scrollWidth") == width


def test_no_frame_is_shown_while_the_canvas_is_blank(desktop: DrawPage) -> None:
    frames = [desktop.page.locator(name) for name in ("#frame", "#explanation")]
    assert not any(frame.is_visible() for frame in frames)
    desktop.draw(scale_strokes(STYLES[7][0], *LARGE))
    desktop.wait_for_text("explanation-text", "Why 7")
    assert all(frame.is_visible() for frame in frames)
    desktop.page.click("#clear")
    desktop.wait_for_text("result", "Draw a digit")
    assert not any(frame.is_visible() for frame in frames)


def test_a_late_explanation_is_not_shown_with_a_newer_prediction(desktop: DrawPage) -> None:
    late: list[Route] = []
    requests = "**/draw/explanations*"
    desktop.page.route(requests, lambda route: late.append(route), times=1)
    with desktop.page.expect_request(requests):
        desktop.draw(scale_strokes(STYLES[7][0], *LARGE))
    desktop.wait_for_text("result", "Predicted 7")
    assert desktop.page.evaluate("document.body.classList.contains('unexplained')")
    desktop.page.click("#clear")
    desktop.draw(scale_strokes(STYLES[3][0], *LARGE))
    desktop.wait_for_text("explanation-text", "Why 3")
    late[0].continue_()
    desktop.page.click("#predict")
    desktop.wait_for_text("result", "Predicted 3")
    assert "Why 3" in desktop.text("explanation-text")


def test_undo_restores_the_previous_content(desktop: DrawPage) -> None:
    desktop.choose(SMOKE[7])
    desktop.wait_for_text("result", "Predicted 7")
    desktop.draw(scale_strokes(STYLES[3][0], *LARGE))  # replaces the image
    desktop.wait_for_text("result", "Predicted 3")
    desktop.page.click("#clear")
    desktop.wait_for_text("result", "Draw a digit")
    desktop.page.click("#undo")
    desktop.wait_for_text("result", "Predicted 3")
    desktop.page.click("#undo")
    desktop.wait_for_text("result", "Draw a digit")
    desktop.page.click("#undo")
    desktop.wait_for_text("result", "Predicted 7")


def test_the_predicted_and_any_other_digit_are_explained(desktop: DrawPage) -> None:
    desktop.draw(scale_strokes(STYLES[7][0], *LARGE))
    desktop.wait_for_text("explanation-text", "Why 7: evidence for it in red")
    desktop.page.click("#bars button >> nth=3")
    desktop.wait_for_text("explanation-text", "Why not 3: evidence for it in red")
    assert desktop.page.locator("#bars [aria-pressed='true']").get_attribute("aria-label") == "3: 0.0%"
    bright_pixels = (
        "document.getElementById('{}').getContext('2d').getImageData(0, 0, 64, 64).data.filter((level) => level > {})"
    )
    assert (
        desktop.page.evaluate(bright_pixels.format("frame", 128) + ".length") > 64 * 64 + 100
    )  # foreground, besides the opaque alpha


def test_a_digit_can_be_drawn_and_explained_by_keyboard(desktop: DrawPage) -> None:
    """A 7: to the left top, a line to the right, a slanted one down."""
    keys = desktop.page.keyboard

    def press(key: str, times: int) -> None:
        for _ in range(times):
            keys.press(key)

    keys.press("Tab")
    assert desktop.page.evaluate("document.activeElement.id") == "canvas"
    press("Shift+ArrowLeft", 3)
    keys.press("Space")
    desktop.wait_for_text("result", "Pen down.")
    press("ArrowRight", 20)
    keys.down("ArrowDown")
    press("ArrowLeft", 5)
    keys.up("ArrowDown")
    press("ArrowDown", 12)
    keys.press("Space")
    desktop.wait_for_text("result", "Predicted 7")
    while desktop.page.evaluate("document.activeElement.closest('#bars') === null"):
        keys.press("Tab")
    keys.press("Enter")
    desktop.wait_for_text("explanation-text", "Why not 0")
    desktop.page.focus("#canvas")
    for key, said in (
        ("Escape", "Draw a digit"),
        ("Control+z", "Predicted 7"),
        ("Escape", "Draw a digit"),
        ("Meta+z", "Predicted 7"),
        ("Backspace", "Draw a digit"),
    ):
        keys.press(key)
        desktop.wait_for_text("result", said)


def test_a_phone_draws_with_a_finger_and_offers_its_camera(phone: DrawPage) -> None:
    phone.touch(scale_strokes(STYLES[2][0], *LARGE))
    phone.wait_for_text("result", "Predicted 2")
    phone.wait_for_text("explanation-text", "Why 2")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 360
    box = phone.page.locator("#result").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 740  # the prediction is visible while a finger draws
    assert phone.page.locator(".camera").is_visible()
    assert phone.page.locator("#camera").get_attribute("capture") == "environment"
    phone.page.set_input_files("#camera", EXAMPLE_FOLDER / "photographed.jpg")
    phone.wait_for_text("result", "Predicted 4")


def test_the_page_is_accessible_in_every_state_and_respects_reduced_motion(desktop: DrawPage, phone: DrawPage) -> None:
    for page in (desktop, phone):
        assert page.find_violations() == []
        page.page.click("[data-example='letter.png']")
        page.wait_for_text("explanation-text", "Why 2")
        assert page.find_violations() == []
        page.page.evaluate("document.body.classList.add('outdated', 'unexplained')")  # as while the service is slow
        page.wait_until("getComputedStyle(document.getElementById('explanation')).opacity === '0.45'")
        assert page.find_violations() == []
        page.page.click("#clear")
        page.page.click("#predict")
        page.wait_for_text("problem", "Not read")
        assert page.find_violations() == []
    desktop.page.emulate_media(reduced_motion="reduce")
    moves = "getComputedStyle(document.querySelector('.track span')).transitionDuration"
    assert desktop.page.evaluate(moves) == "0s"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_versions_are_switched_and_compared_and_a_crash_is_waited_for(browser: Browser, tmp_path: Path) -> None:
    config = configure_with_archives(tmp_path, "1.0", "1.1")
    with run_server(config) as (process, client), browser.new_context() as context:
        desktop = DrawPage(context, config)
        assert desktop.page.locator("#compare").is_disabled()
        assert desktop.page.locator("#versions-hint").is_visible()
        desktop.draw(scale_strokes(STYLES[5][0], *LARGE))
        desktop.wait_for_text("result", "Predicted 5")
        client.register("digits-1.1.mar")
        desktop.page.evaluate("dispatchEvent(new Event('focus'))")  # as when a person comes back from the terminal
        desktop.page.click("#compare")
        desktop.wait_for_text("comparison-text", "Both predict the same digit; probabilities differ by at most 0.0%.")
        rows = desktop.page.locator("#comparison tbody tr").all_inner_texts()
        assert [row.split()[:2] for row in rows] == [["1.0", "5"], ["1.1", "5"]]
        assert desktop.find_violations() == []
        desktop.page.select_option("#version", "1.1")
        desktop.wait_for_text("result", "Version 1.1.")
        assert desktop.page.locator("#other").input_value() == "1.0"  # a version is not compared with itself
        client.unregister("1.1")
        desktop.page.click("#predict")
        desktop.wait_for_text("problem", "No longer registered: 1.1.")
        desktop.wait_for_text("result", "Predicted 5")
        desktop.wait_for_text("result", "Version 1.0.")
        find_java(process).kill()
        desktop.page.click("#predict")
        desktop.wait_for_text("state", "Not ready: ")
        desktop.wait_for_text("state", "Ready.")
        desktop.wait_for_text("result", "Predicted 5")
        desktop.wait_until("!document.body.classList.contains('outdated')")


@pytest.mark.slow
def test_screenshots(desktop: DrawPage, phone: DrawPage, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """`make test ARGS="tests/test_draw_page.py --screenshots docs"` writes those of the README."""
    folder = Path(request.config.getoption("--screenshots") or tmp_path)
    desktop.draw(scale_strokes(STYLES[7][1], *LARGE))
    desktop.wait_for_text("explanation-text", "Why 7")
    phone.page.click("[data-example='photographed.jpg']")
    phone.wait_for_text("explanation-text", "Why 4")
    for page, name in ((desktop, "draw.png"), (phone, "draw-phone.png")):
        page.page.mouse.move(0, 0)
        page.page.evaluate("scrollTo(0, 0)")
        page.page.wait_for_timeout(300)  # the bars' movement
        page.page.screenshot(path=folder / name, full_page=page is desktop)
        assert (folder / name).stat().st_size > 10_000
