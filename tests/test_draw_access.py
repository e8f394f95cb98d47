"""/draw in a real Chromium by keyboard, by finger, and for those who see or move less."""

from tests.browser import DrawPage, needs_chromium
from tests.strokes import WAYS, placed

pytestmark = needs_chromium

LARGE = (0.12, 0.12, 0.76)


def test_everything_works_by_keyboard_and_is_said(drawn: DrawPage) -> None:
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
    keys.press("Backspace")
    drawn.says("said", "Draw a digit")
    keys.press("Space")
    press("Shift+ArrowUp", 5)
    keys.press("Tab")  # lifts the pen
    drawn.says("said", "Read as 1")
    drawn.page.focus("#sheet")
    press("Space", 1)
    press("ArrowLeft", 5)
    keys.press("Backspace")  # the stroke under way alone
    drawn.says("said", "Read as 1")
    keys.press("Escape")
    drawn.says("said", "Draw a digit")
    keys.press("Control+z")
    drawn.says("said", "Read as 1")
    keys.press("Meta+z")
    drawn.says("said", "Draw a digit")


def test_it_works_on_a_phone_with_a_finger(phone: DrawPage) -> None:
    phone.touch(placed(WAYS[2][0], *LARGE))
    phone.says("said", "Read as 2")
    phone.says("why-text", "Why 2")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 360
    box = phone.page.locator("#said").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 740  # the answer is in sight while a finger draws


def test_nothing_is_in_the_way_of_those_who_see_or_move_less(drawn: DrawPage, phone: DrawPage) -> None:
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
    moves = "getComputedStyle(document.querySelector('.track span')).transitionDuration"
    assert drawn.page.evaluate(moves) == "0.15s"
    drawn.page.emulate_media(reduced_motion="reduce")
    assert drawn.page.evaluate(moves) == "0s"
