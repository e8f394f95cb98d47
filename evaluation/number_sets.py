"""Images of numbers, composed of MNIST's digits, and of what is no number."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from common.command_line import show_progress
from evaluation.outlier_images import draw_letters
from evaluation.sets import encode_png
from evaluation.synthetic_photos import make_photo
from handler.decoding import GrayImage
from training.synthetic_numbers import INK_LEVEL, WIDE_GAPS, ComposedNumber, compose_number
from training.synthetic_outliers import draw_scribble

Random = np.random.Generator
Render = Callable[[ComposedNumber, Random], bytes]  # draws and encodes a number

LENGTHS = (2, 10)  # digits, both included
TOUCHING_GAPS = (-0.2, -0.05)  # in heights; -4 to -1 of MNIST's 28 pixels, whose digits are 20 high
MIXED_GAPS = (-0.2, 0.35)
BOXED_GAPS = (0.25, 0.8)  # room for the lines between the digits
BOX_MARGINS = (0.1, 0.4)  # from the digits to the box, in heights
LINE_WIDTHS, LINE_LEVELS = (0.02, 0.08), (100, 255)  # in heights; gray levels
SEPARATE_BOX_RATIO, BOX_DISTANCE = 0.3, 0.15  # share of rows whose boxes do not share lines; their distance in heights
PHOTO_SIZES = (0.5, 0.95)  # longer side of the number, as a share of the photo's shorter side
GRID_SIDES, GRID_CELLS = (60, 240), (2, 6)  # pixels; cells of a side


@dataclass(frozen=True)
class NumberSet:
    """Encoded images and the numbers that they show, "" for none; touches are connections between a number's digits."""

    name: str
    images: list[bytes]
    labels: list[str]
    touches: list[int]


def make_number_sets(
    images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int, count: int
) -> Iterator[NumberSet]:
    """Yield sets of `count` numbers, composed of digits uint8 [N,28,28], and all digits as numbers of one."""

    def compose(
        name: str,
        lengths: tuple[int, int],
        gaps: tuple[float, float],
        touches: tuple[int, ...],
        render: Render = lambda number, _: encode_png(number.image),
    ) -> NumberSet:
        random = np.random.default_rng([seed, *name.encode()])
        number_set = NumberSet(name, [], [], [])
        for _ in show_progress(range(count), name):
            while True:
                rows = random.integers(len(images), size=random.integers(*lengths, endpoint=True))
                number = compose_number(list(images[rows]), gaps, random)
                if (touching := count_touches(number)) in touches:
                    break
            number_set.images.append(render(number, random))
            number_set.labels.append("".join(map(str, labels[rows])))
            number_set.touches.append(touching)
        return number_set

    yield compose("separate", (5, 5), WIDE_GAPS, (0,))
    yield compose("separate, 2 to 10", LENGTHS, WIDE_GAPS, (0,))
    yield compose(
        *("photographed", LENGTHS, WIDE_GAPS, (0,)),
        lambda number, random: make_photo(number.image, random, PHOTO_SIZES),
    )
    yield compose(
        *("in a row of boxes", (5, 5), BOXED_GAPS, (0,)), lambda number, random: encode_png(draw_boxes(number, random))
    )
    yield compose("touching pair", (2, 2), TOUCHING_GAPS, (1,))
    yield compose("one or two touches", (5, 5), MIXED_GAPS, (1, 2))
    yield NumberSet("single digit", [encode_png(image) for image in images], [*map(str, labels)], [0] * len(images))


def make_other_sets(images: NDArray[np.uint8], seed: int, count: int) -> Iterator[NumberSet]:
    """Yield sets of `count` images that show no number, or more than one."""
    random = np.random.default_rng(seed)
    letters = draw_letters(random)

    def choose(digits: int) -> list[GrayImage]:
        return [images[row] for row in random.integers(len(images), size=digits)]

    def draw_word() -> GrayImage:
        word = [letters[row] for row in random.integers(len(letters), size=random.integers(3, 9))]
        return compose_number(word, WIDE_GAPS, random).image

    def draw_lines() -> GrayImage:
        lines = [compose_number(choose(4), WIDE_GAPS, random).image for _ in range(2)]
        width = max(line.shape[1] for line in lines)
        return np.concatenate([np.pad(line, ((0, 0), (0, width - line.shape[1]))) for line in lines])

    def draw_grid() -> GrayImage:
        side, cells, width = (int(random.integers(*limits)) for limits in (GRID_SIDES, GRID_CELLS, (1, 5)))
        grid = np.zeros((side + 40, side + 40), np.uint8)
        for place in np.linspace(20, side + 20, cells + 1).astype(int).tolist():
            cv2.line(grid, (20, place), (side + 20, place), 255, width)
            cv2.line(grid, (place, 20), (place, side + 20), 255, width)
        return grid

    def draw_sum() -> GrayImage:
        sign, end = np.zeros((28, 28), np.uint8), int(random.integers(5, 9))
        for x, y in ((end, 0), (0, end)) if random.random() < 0.5 else ((end, end), (end, -end)):
            cv2.line(sign, (14 - x, 14 - y), (14 + x, 14 + y), 255, 2, cv2.LINE_AA)
        return compose_number([*choose(2), sign, *choose(2)], WIDE_GAPS, random).image

    kinds: dict[str, Callable[[], GrayImage]] = {"word": draw_word, "two lines": draw_lines, "grid": draw_grid}
    kinds |= {"scribble": lambda: draw_scribble(images, random), "sum": draw_sum}
    for name, draw in kinds.items():
        drawn = [encode_png(draw()) for _ in show_progress(range(count), name)]
        yield NumberSet(name, drawn, [""] * count, [0] * count)


def count_touches(number: ComposedNumber) -> int:
    """Return how many connections there are between the digits."""
    masks = [*(number.layers >= INK_LEVEL), number.image >= INK_LEVEL]
    *parts, whole = (cv2.connectedComponents(mask.view(np.uint8))[0] - 1 for mask in masks)
    return int(sum(parts) - whole)


def draw_boxes(number: ComposedNumber, random: Random) -> GrayImage:
    """Draw the number in a row of boxes, whose lines lie midway between the digits."""
    boxes = [cv2.boundingRect((layer >= INK_LEVEL).view(np.uint8)) for layer in number.layers]
    lefts, tops, widths, heights = np.transpose(boxes)
    height = int(heights.max())
    top_margin, bottom_margin, *side_margins = random.uniform(*BOX_MARGINS, 4) * height
    width = max(1, round(random.uniform(*LINE_WIDTHS) * height))
    edge = round(height * (BOX_MARGINS[1] + random.random())) + 2 * width
    image = np.pad(number.image, edge)
    lefts, tops = lefts + edge, tops + edge
    rights = lefts + widths
    columns = [lefts[0] - side_margins[0], *(lefts[1:] + rights[:-1]) / 2, rights[-1] + side_margins[1]]
    distance = BOX_DISTANCE * height / 2 if random.random() < SEPARATE_BOX_RATIO else 0
    top, bottom = round(tops.min() - top_margin), round((tops + heights).max() + bottom_margin)
    lines, level = np.zeros_like(image), int(random.integers(*LINE_LEVELS, endpoint=True))
    for left, right in pairwise(columns):
        cv2.rectangle(lines, (round(left + distance), top), (round(right - distance), bottom), level, width)
    return np.maximum(image, lines)
