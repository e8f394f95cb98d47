"""Remove boxes, ruled and squared lines and lines over the digit; rebuild the strokes that they cross."""

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.background import Foreground
from handler.decoding import GrayImage
from handler.geometry import measure_foreground
from handler.segmentation import MIN_CONTRAST, binarize

Lines = NDArray[np.float64]  # [lines,2], pixels: rows at the left and right ends

MIN_SIDE = 24  # pixels; lines are looked for in a foreground whose longer side is at least this
ENLARGED_SIDE = 112  # pixels; smaller images are enlarged to about this, so that erasing does not break strokes
MAX_ENLARGED_SIDE = 4096  # pixels; longer side of an enlarged number, whose shorter side becomes ENLARGED_SIDE
REDUCED_SIDE = 128  # pixels; longer side of the reduced foreground in which lines are looked for
MAX_TILT = np.deg2rad(6)  # of a straight line from the image's axes
MIN_FILL = 0.8  # share of a straight line's length that is foreground
MIN_ROW_FILL = 0.9  # the same of lines down a number, in which a 1 may be almost as high as its box
MAX_EXTENSION = 0.25  # distance of a box's sides from the foreground's edges, as a share of its side
MAX_LINE_RATIO = 0.7  # thickness of a single line relative to the digit's stroke; with more, it is a stroke as well
MAX_THICKNESS = 0.1  # of a straight line, as a share of the foreground's longer side
MAX_ALONG = 0.5  # share of a component's area along the lines; a thin component with more is a remainder of them
MAX_REMAINDER = 4  # smaller side of a remainder, relative to the thickness of the lines
MIN_HEIGHT = 0.2  # of what is left, as a share of the foreground's shorter side
MIN_CLEARANCE = 0.06  # distance of the digit from the ends of a line across it, as a share of the line's length
MIN_CROSSING_WIDTH, MIN_MARGIN = 0.78, 0.015  # of a line over the digit, as shares of the image's width
MIN_STICKING_OUT = 0.1  # share of such a line on both sides of the digit
MAX_STEP, STEP_COST = 3, 0.05  # pixels up or down per column of a path, and their cost; a gap's column costs 1
MAX_GAPS = 0.03  # share of a path that is not foreground


def remove_lines(foreground: Foreground, is_number: bool = False) -> Foreground | None:
    """Return the foreground without the lines around, under and over the digit; None if there are none.

    Around a number, the lines between the boxes of a row are removed too, but not a line over it.
    """
    intensity, shape = foreground.intensity, foreground.intensity.shape
    drawn = cv2.threshold(intensity, MIN_CONTRAST, 255, cv2.THRESH_BINARY)[1]  # a quick test that MNIST's digits fail
    if max(cv2.boundingRect(drawn)[2:]) < MIN_SIDE:
        return None
    mask = binarize(foreground)[1]
    factor = round(ENLARGED_SIDE / (min(shape) if is_number else max(shape)))
    factor = min(factor, MAX_ENLARGED_SIDE // max(shape))
    if factor > 1:
        intensity = cv2.resize(intensity, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        mask = binarize(foreground._replace(intensity=intensity))[1]
    tilt = _measure_tilt(mask) if is_number else 0.0
    mask = _shear_columns(mask, -tilt)
    left, top, width, height = cv2.boundingRect(mask)
    inside = np.ascontiguousarray(mask[top : top + height, left : left + width])
    margins = top, mask.shape[0] - top - height, left, mask.shape[1] - left - width
    may_have_lines = not any(margins[:2]) or not any(margins[2:]) or _has_sides(inside)
    kept = _erase_straight_lines(inside, margins, is_number) if may_have_lines else None
    is_wide = width >= MIN_CROSSING_WIDTH * mask.shape[1] and min(margins) >= MIN_MARGIN * mask.shape[1]
    if kept is None and foreground.is_evenly_lit and is_wide and not is_number:
        kept = _erase_crossing_line(inside)
    if kept is None:
        return None
    kept = _shear_columns(cv2.copyMakeBorder(kept, *margins, cv2.BORDER_CONSTANT), tilt)
    near = cv2.dilate(kept, np.ones((3, 3), np.uint8))
    cleared = cv2.resize(cv2.bitwise_and(intensity, near), shape[::-1], interpolation=cv2.INTER_AREA)
    return foreground._replace(intensity=cleared)


def _measure_tilt(mask: GrayImage) -> float:
    """Return the median tilt of the lines across the mask, in rows per column; 0 if there are none."""
    left, top, width, height = cv2.boundingRect(mask)
    lines = _find_lines(np.ascontiguousarray(mask[top : top + height, left : left + width]), min(width, height))
    return float(np.median(np.diff(lines))) / width if len(lines) else 0.0


def _shear_columns(mask: GrayImage, tilt: float) -> GrayImage:
    """Move column x of the mask down by `tilt * x` pixels, counted from its middle."""
    if not tilt:
        return mask
    matrix = np.array(((1, 0, 0), (tilt, 1, -tilt * mask.shape[1] / 2)))
    sheared: GrayImage = cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST)
    return sheared


def _has_sides(mask: GrayImage) -> bool:
    """Return whether there is foreground along all four edges; a quick test that most digits fail."""
    for rows in (mask, mask[::-1], mask.T, mask.T[::-1]):
        outer = rows[: max(1, round(MAX_EXTENSION * len(rows)))]
        if np.count_nonzero(outer.any(0)) < MIN_FILL * outer.shape[1]:
            return False
    return True


def _erase_straight_lines(mask: GrayImage, margins: tuple[int, ...], is_number: bool) -> GrayImage | None:
    """Erase a box or row of boxes, which digits may touch, or lines across the whole image; None if there are none."""
    height, width = mask.shape
    side = min(mask.shape) if is_number else max(mask.shape)
    rows, columns = _find_lines(mask, side), _find_lines(mask.T, side, MIN_ROW_FILL if is_number else MIN_FILL)
    across, down = len(rows) > 0 and not any(margins[2:]), len(columns) > 0 and not any(margins[:2])
    sides = _select_sides(columns, width), _select_sides(rows, height)
    is_box = all(map(len, sides))
    if not across and not down:
        columns, rows = columns if is_number else sides[0], sides[1]
    rows, columns = rows[: None if is_box or across else 0], columns[: None if is_box or down else 0]
    rest, along_rows, row_thickness = _erase_rows(mask, rows, side)
    rest, along_columns, column_thickness = _erase_rows(rest.T, columns, side)
    thickness = max(row_thickness, column_thickness)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(rest.T))
    along = np.bincount(labels[(along_rows | along_columns.T) > 0], minlength=count) >= MAX_ALONG * stats[:, 4]
    left, top, widths, heights = stats.T[:4]
    gaps = np.stack((top, height - top - heights, left, width - left - widths), 1)
    is_clipped = (gaps + margins).min(1) == 0
    kept = (np.minimum(widths, heights) > MAX_REMAINDER * thickness + 3) | ~(along | is_clipped)
    kept[0] = False
    digit = int(np.where(kept, stats[:, 4], 0).argmax())
    if not thickness or not kept[digit] or heights[digit] < MIN_HEIGHT * min(mask.shape):
        return None
    clearances = gaps[digit] / (height, height, width, width)
    if not is_box and (is_clipped[digit] or clearances[[down, down, across, across]].min() < MIN_CLEARANCE):
        return None
    stroke_width = measure_foreground((labels == digit)[np.newaxis] * np.uint8(255))[1][0]
    if not is_box and not (across and down) and thickness > MAX_LINE_RATIO * stroke_width:
        return None
    return np.asarray(np.where(kept, 255, 0).astype(np.uint8)[labels])


def _find_lines(mask: GrayImage, side: int, min_fill: float = MIN_FILL) -> Lines:
    """Find straight lines that reach from the left to the right side; `side` decides how far the mask is reduced."""
    step = -(-side // REDUCED_SIDE)
    thick = np.ascontiguousarray(cv2.dilate(mask, np.ones((2 * step + 1, step), np.uint8))[::step, ::step])
    votes, angles = int(min_fill * thick.shape[1]), (np.pi / 2 - MAX_TILT, np.pi / 2 + MAX_TILT)
    lines = cv2.HoughLines(thick, 1, np.deg2rad(1), votes, min_theta=angles[0], max_theta=angles[1])
    distance, angle = np.empty((2, 0)) if lines is None else lines[:, 0].T.astype(float)
    ends = [(distance - x * np.cos(angle)) / np.sin(angle) for x in (0, thick.shape[1])]
    return np.asarray(step * np.stack(ends, 1))


def _select_sides(lines: Lines, side: int) -> Lines:
    """Select the lines near both edges if there are any; what lies between them may be a stroke of the digit."""
    edge = lines.mean(1) / side
    is_first, is_last = edge < MAX_EXTENSION, edge > 1 - MAX_EXTENSION
    return np.asarray(lines[(is_first | is_last) & is_first.any() & is_last.any()])


def _erase_rows(mask: GrayImage, lines: Lines, side: int) -> tuple[GrayImage, GrayImage, float]:
    """Erase lines from left to right; return the rest, the band along the lines, and their thickness in pixels."""
    paths = [np.array(((0, first), (mask.shape[1], last))) for first, last in lines]
    thickness = _measure_thickness(cv2.bitwise_and(mask, _draw_band(mask, paths, 0.12 * side)))
    if not 0 < thickness <= MAX_THICKNESS * side:
        return mask, np.zeros_like(mask), 0.0
    band = _draw_band(mask, paths, 2 * thickness + 0.02 * side)
    return _erase_along(mask, band, thickness), band, thickness


def _draw_band(mask: GrayImage, paths: list[NDArray[np.float64]], width: float) -> GrayImage:
    band = np.zeros(mask.shape, np.uint8)
    cv2.polylines(band, [np.rint(path).astype(np.int32) for path in paths], False, 255, max(1, round(width)))
    return band


def _measure_thickness(mask: GrayImage) -> float:
    """Return the median height of the foreground's vertical runs, in pixels; 0 if there are none."""
    steps = np.diff(np.pad(mask.T > 0, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    heights = np.nonzero(steps < 0)[1] - np.nonzero(steps > 0)[1]
    return float(np.median(heights)) if len(heights) else 0.0


def _erase_along(mask: GrayImage, band: GrayImage, thickness: float) -> GrayImage:
    """Erase what is no higher than the line in its band, and bridge the strokes that this cuts."""
    taller = np.ones((round(1.4 * thickness) + 2, 1), np.uint8)
    crossing = cv2.morphologyEx(mask, cv2.MORPH_OPEN, taller, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    erased = mask & band & ~crossing
    rest = mask & ~erased
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (round(thickness) + 3,) * 2)
    return np.asarray(rest | cv2.morphologyEx(rest, cv2.MORPH_CLOSE, pen) & erased)


def _erase_crossing_line(mask: GrayImage) -> GrayImage | None:
    """Erase a thin line of any shape that sticks out of the digit on the left and on the right; None without one."""
    strip = max(1, round(MIN_STICKING_OUT * mask.shape[1]))
    ends = np.concatenate((mask[:, :strip], mask[:, -strip:]), 1)
    thickness, heights = _measure_thickness(ends), np.count_nonzero(ends, 0)
    if not heights.all() or heights.max() > 2 * thickness + 1:
        return None
    path = _find_path(mask)
    if path is None:
        return None
    rest = _erase_along(mask, _draw_band(mask, [path], 2 * thickness), thickness)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(rest)
    stats[0, 4] = 0
    digit = int(stats[:, 4].argmax())
    left, width = stats[digit, [0, 2]].tolist()
    if min(left, mask.shape[1] - left - width) < strip:
        return None
    line_width = min(measure_foreground(np.stack(np.split(ends, 2, 1)))[1])
    if line_width > MAX_LINE_RATIO * measure_foreground((labels == digit)[np.newaxis] * np.uint8(255))[1][0]:
        return None
    return np.asarray(np.where(stats[:, 4] > 0, 255, 0).astype(np.uint8)[labels])


def _find_path(mask: GrayImage) -> NDArray[np.float64] | None:
    """Find the flattest path over the foreground from left to right, points [columns,2] (x, y); None if it has gaps."""
    step = -(-max(mask.shape) // REDUCED_SIDE)
    gaps = cv2.dilate(mask, np.ones((step, step), np.uint8))[::step, ::step] == 0
    height, width = gaps.shape
    moves = np.arange(-MAX_STEP, MAX_STEP + 1)
    total, chosen = gaps[:, 0].astype(float), np.zeros((width, height), int)
    for x in range(1, width):
        around = np.pad(total, MAX_STEP, constant_values=np.inf)
        costs = np.lib.stride_tricks.sliding_window_view(around, len(moves)) + STEP_COST * abs(moves)
        chosen[x] = costs.argmin(1)
        total = costs.min(1) + gaps[:, x]
    rows = [int(total.argmin())]
    for x in range(width - 1, 0, -1):
        rows.append(rows[-1] + int(moves[chosen[x, rows[-1]]]))
    path = np.stack((np.arange(width), rows[::-1]), 1)
    return step * path if gaps[path[:, 1], path[:, 0]].mean() <= MAX_GAPS else None
