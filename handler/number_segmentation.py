"""Segment a line of digits into pieces: connected components, and parts of components that may be several digits.

Every digit is one piece or several neighboring ones; which, the classifier decides (handler/number_reader.py).
"""

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from handler.background import Foreground
from handler.decoding import ImageError
from handler.geometry import MAX_SLANT
from handler.protocol import MAX_NUMBER_DIGITS
from handler.segmentation import binarize, select_components

MAX_PIECES = 128  # of a line; more are no number
MIN_LINE_HEIGHT = 0.5  # share of the highest component's height; the line's height is the median of components above
MIN_DIGIT_HEIGHT = 0.4  # share of the line's height; a lower piece is a part of a digit, a dot or a dash
MAX_SLANT_WIDTH = 1.1  # share of the line's height; a wider component may be several digits and tells no slant
MIN_OVERLAP = 0.3  # share of the lower component's height in which neighbors of the same line overlap
MAX_BREAK = 0.25  # share of the line's height; gap between parts of a digit, one above the other
SEAM_ROWS = 32  # rows of the reduced component in which seams are looked for
SEAM_STEP, SEAM_REACH = 0.1, 0.15  # distance between the middles of neighboring bands, half their width; in heights
MIN_SEAM_DISTANCE = 0.08  # share of the line's height; of two closer seams, the cheaper one is kept
MIN_PIECE_WIDTH = 0.12  # share of the line's height; a seam nearer to the component's end is dropped
MAX_SEAM_COST = 0.45  # of a seam, in heights of stroke that it crosses; about three strokes
DIAGONAL_COST = 0.1  # of a seam's step to a neighboring column, in pixels of foreground

Boxes = NDArray[np.int32]  # [n,4], pixels: left, top, right, bottom; right and bottom are exclusive


class SeveralLinesError(ImageError):
    """An image that shows several lines of digits; `boxes` are their left, top, right and bottom."""

    type = reason = "several_lines"

    def __init__(self, boxes: list[list[int]]) -> None:
        super().__init__(422, f"the image shows {len(boxes)} lines of digits; send every line as an image of its own")
        self.boxes = boxes


class Piece(NamedTuple):
    """A piece of a line: its box, its ends along the line if that were upright, and the cost of the cut before it."""

    box: tuple[int, int, int, int]  # pixels: left, top, right, bottom
    left: float
    right: float
    cut_cost: float | None = None  # stroke pixels that the cut crosses, per height; None where a component begins

    @property
    def height(self) -> int:
        return self.box[3] - self.box[1]


@dataclass(frozen=True)
class Line:
    """A line of digits; lengths are in pixels of the foreground."""

    foreground: Foreground
    contrast: float  # gray levels of 255, of the strongest foreground
    labels: NDArray[np.int32]  # [height,width]: index of the piece, -1 elsewhere
    pieces: list[Piece]  # from left to right
    height: float
    slant: float  # pixels to the left per row down

    def find_box(self, first: int, last: int) -> tuple[int, int, int, int]:
        """Return left, top, right, bottom of the pieces from `first` to `last`, exclusive."""
        lefts, tops, rights, bottoms = zip(*(piece.box for piece in self.pieces[first:last]), strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def measure(self, first: int, last: int) -> tuple[float, float]:
        """Return width and height of these pieces, in heights of the line, with the slant removed."""
        _, top, _, bottom = self.find_box(first, last)
        run = self.pieces[first:last]
        width = max(piece.right for piece in run) - min(piece.left for piece in run)
        return width / self.height, (bottom - top) / self.height


def segment_line(foreground: Foreground) -> Line:
    """Find the line's components; raise ImageError 422 if there are none, or if they form several lines."""
    smooth, binary, contrast = binarize(foreground)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(binary)
    selected = np.flatnonzero(select_components(smooth, labels, stats, foreground.is_evenly_lit))
    if len(selected) > MAX_PIECES:
        message = f"the image shows {len(selected)} separate marks; expected at most {MAX_NUMBER_DIGITS} digits"
        raise ImageError(422, message)
    boxes = stats[selected, :4] + np.pad(stats[selected, :2], ((0, 0), (2, 0)))  # left, top, right, bottom
    heights = boxes[:, 3] - boxes[:, 1]
    height = float(np.median(heights[heights >= MIN_LINE_HEIGHT * heights.max()]))
    tall = heights >= MIN_DIGIT_HEIGHT * height
    _check_single_line(boxes[tall], height)
    slant = _estimate_slant(labels, selected[tall], boxes[tall], height)
    ends = [
        _measure_ends(labels[top:bottom, left:right] == label, left, top, slant)
        for label, (left, top, right, bottom) in zip(selected, boxes.tolist(), strict=True)
    ]
    order = sorted(range(len(ends)), key=lambda row: sum(ends[row]))
    numbers = np.full(len(stats), -1, np.int32)
    numbers[selected[order]] = np.arange(len(order))
    pieces = [Piece(tuple(boxes[row].tolist()), *ends[row]) for row in order]
    return Line(foreground, contrast, numbers[labels], pieces, height, slant)


def _check_single_line(boxes: Boxes, height: float) -> None:
    """Raise SeveralLinesError if components that should be digits do not lie beside each other."""
    order = np.argsort(boxes[:, 0] + boxes[:, 2])
    line = {int(row): {int(row)} for row in order}
    for place, first in enumerate(order.tolist()):
        for second in order[place + 1 :].tolist():
            overlap = min(boxes[first, 3], boxes[second, 3]) - max(boxes[first, 1], boxes[second, 1])
            lower = min(boxes[first, 3] - boxes[first, 1], boxes[second, 3] - boxes[second, 1])
            is_above = boxes[second, 0] < boxes[first, 2]
            if overlap >= MIN_OVERLAP * lower or (is_above and overlap >= -MAX_BREAK * height):
                joined = line[first] | line[second]
                line.update(dict.fromkeys(joined, joined))
                if overlap >= MIN_OVERLAP * lower:
                    break
    lines = {id(rows): boxes[sorted(rows)] for rows in line.values()}.values()
    if len(lines) > 1:
        ends = [[*rows[:, :2].min(0).tolist(), *rows[:, 2:].max(0).tolist()] for rows in lines]
        raise SeveralLinesError(sorted(ends, key=lambda box: box[1]))


def _estimate_slant(labels: NDArray[np.int32], selected: NDArray[np.int64], boxes: Boxes, height: float) -> float:
    """Return the mean slant of the components, as `deslant` measures it; 0 if all may be several digits."""
    covariance = variance = 0.0
    for label, (left, top, right, bottom) in zip(selected, boxes.tolist(), strict=True):
        if right - left <= MAX_SLANT_WIDTH * height:
            moments = cv2.moments((labels[top:bottom, left:right] == label).view(np.uint8), True)
            covariance, variance = covariance + moments["mu11"], variance + moments["mu02"]
    return min(max(covariance / variance, -MAX_SLANT), MAX_SLANT) if variance else 0.0


def _measure_ends(mask: NDArray[np.bool_], left: int, top: int, slant: float) -> tuple[float, float]:
    """Return the left and right ends of a component if the line were upright."""
    firsts, lasts = mask.argmax(1), mask.shape[1] - mask[:, ::-1].argmax(1)
    filled, shift = mask.any(1), left - slant * (top + np.arange(len(mask)))
    return float((firsts + shift)[filled].min()), float((lasts + shift)[filled].max())


def cut_pieces(line: Line, rows: Container[int]) -> Line:
    """Cut the pieces of these indices, each along the seams where few strokes are crossed."""
    labels = np.full_like(line.labels, -1)
    pieces: list[Piece] = []
    for row, piece in enumerate(line.pieces):
        left, top, right, bottom = piece.box
        mask = line.labels[top:bottom, left:right] == row
        costs, seams = _find_seams(mask, line.slant, line.height) if row in rows else ([], np.empty((0, len(mask))))
        part = (np.arange(right - left) >= seams[..., np.newaxis]).sum(0)  # [height,width]: seams to the left
        is_first = True  # a seam may pass on the left of the component
        for index, cost in enumerate([piece.cut_cost, *costs]):
            cut = mask & (part == index)
            if not cut.any():
                continue
            x, y, width, height = cv2.boundingRect(cut.view(np.uint8))
            labels[top:bottom, left:right][cut] = len(pieces)
            box = left + x, top + y, left + x + width, top + y + height
            ends = _measure_ends(cut, left, top, line.slant)
            pieces.append(Piece(box, *ends, piece.cut_cost if is_first else cost))
            is_first = False
    return replace(line, labels=labels, pieces=pieces)


def _find_seams(mask: NDArray[np.bool_], slant: float, line_height: float) -> tuple[list[float], NDArray[np.float64]]:
    """Find seams [seams,height] (columns by row) from top to bottom that cross few pixels, and their costs.

    A seam is the cheapest path within a band of columns along the slant (dynamic programming, as in S. Avidan and
    A. Shamir: Seam carving for content-aware image resizing, ACM Trans. Graphics 26, 2007).
    """
    height, width = mask.shape
    rows = min(SEAM_ROWS, height)
    scale = rows / height
    columns = max(1, round(width * scale))
    small = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    shift = slant * (np.arange(rows) - (rows - 1) / 2)  # columns by which a row lies to the left of an upright one
    unit = line_height * scale
    middles = np.arange(MIN_PIECE_WIDTH * unit, columns, SEAM_STEP * unit)
    reach = max(1, round(SEAM_REACH * unit))
    band = np.arange(-reach, reach + 1)
    index = np.rint(middles[:, np.newaxis, np.newaxis] + shift[:, np.newaxis] + band).astype(int)  # [bands,rows,band]
    inside = (index >= 0) & (index < columns)
    costs = np.where(inside, small[np.arange(rows)[:, np.newaxis], index.clip(0, columns - 1)], 0)
    total, moves = costs[:, 0], np.zeros(index.shape, int)
    for row in range(1, rows):
        padded = np.pad(total, ((0, 0), (1, 1)), constant_values=np.inf)
        options = np.stack((padded[:, :-2] + DIAGONAL_COST, padded[:, 1:-1], padded[:, 2:] + DIAGONAL_COST))
        moves[:, row] = options.argmin(0) - 1
        total = options.min(0) + costs[:, row]
    place = total.argmin(1)
    cost = total.min(1) / unit
    paths = np.empty(index.shape[:2])
    for row in range(rows - 1, -1, -1):
        paths[:, row] = index[np.arange(len(index)), row, place]
        place = place + moves[np.arange(len(index)), row, place]
    kept: list[int] = []
    for seam in np.argsort(cost).tolist():
        if cost[seam] <= MAX_SEAM_COST and all(
            np.abs(paths[seam] - paths[other]).mean() >= MIN_SEAM_DISTANCE * unit for other in kept
        ):
            kept.append(seam)
    kept = sorted(kept, key=lambda seam: float(paths[seam].mean()))
    full = np.maximum.accumulate(paths[kept], 0) / scale  # seams do not cross
    full = np.array([np.interp((np.arange(height) + 0.5) * scale - 0.5, np.arange(rows), path) for path in full])
    return [float(cost[seam]) for seam in kept], full.reshape(-1, height)
