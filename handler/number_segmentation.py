"""Segment a line of digits into pieces: connected components, and parts of components that may be several digits.

Every digit is one piece or several neighboring ones; which, the classifier decides (handler/number_reader.py).
"""

import math
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
from handler.segmentation import MIN_DIGIT_HEIGHT, binarize, select_components

MAX_PIECES = 128  # of a line; more are no number
MIN_LINE_HEIGHT = 0.5  # share of the highest component's height; the line's height is the median of components above
MAX_SLANT_WIDTH = 1.1  # share of the line's height; a wider component may be several digits and tells no slant
MIN_OVERLAP = 0.3  # share of the lower component's height in which neighbors of the same line overlap
MIN_STACKED_OVERLAP = 0.3  # share of the narrower component's width in which parts one above the other overlap
MAX_BREAK = 0.25  # share of the line's height; gap between parts of a digit, one above the other
CUT_DISTANCE = 0.1  # smallest distance between cuts, share of the line's height
MIN_PIECE_WIDTH = 0.12  # at the ends of a component that is cut, share of the line's height

Boxes = NDArray[np.int32]  # [n,4], pixels: left, top, right, bottom; right and bottom are exclusive


class SeveralLinesError(ImageError):
    """An image that shows several lines of digits; `boxes` are their left, top, right and bottom."""

    type = reason = "several_lines"

    def __init__(self, boxes: list[list[int]]) -> None:
        super().__init__(422, f"the image shows {len(boxes)} lines of digits; send every line as an image of its own")
        self.boxes = boxes


class Piece(NamedTuple):
    """A piece of a line: its box, its ends with the slant removed, and whether a cut is before it."""

    box: tuple[int, int, int, int]  # pixels: left, top, right, bottom
    left: float
    right: float
    is_cut: bool = False  # from the piece before, of the same component


@dataclass(frozen=True)
class Line:
    """A line of digits; lengths are in pixels of the foreground."""

    foreground: Foreground
    contrast: float  # gray levels of 255, of the strongest foreground
    labels: NDArray[np.int32]  # [height,width]: index of the piece, -1 elsewhere
    pieces: list[Piece]  # from left to right
    height: float
    slant: float  # pixels to the right per row down

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

    def is_connected(self, first: int, last: int) -> bool:
        """Return whether these pieces are of one component."""
        return all(piece.is_cut for piece in self.pieces[first + 1 : last])

    def is_component(self, first: int, last: int) -> bool:
        """Return whether these pieces are a whole component."""
        ends = [self.pieces[row].is_cut for row in (first, last) if row < len(self.pieces)]
        return self.is_connected(first, last) and not any(ends)

    def split_box(self, first: int, last: int) -> list[tuple[int, int, int, int]]:
        """Return the boxes of a pair of touching digits, split in the emptiest column near the middle."""
        left, top, right, bottom = self.find_box(first, last)
        labels, start = self.labels[top:bottom, left:right], (right - left) // 4
        filled = ((labels >= first) & (labels < last)).sum(0)[start : right - left - start]
        middle = left + start + int(filled.argmin())
        return [(left, top, middle, bottom), (middle, top, right, bottom)]


def segment_line(foreground: Foreground) -> Line:
    """Find the line's components; raise ImageError 422 if there are none, or if they form several lines."""
    smooth, binary, contrast = binarize(foreground)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(binary)
    selected = np.flatnonzero(select_components(smooth, labels, stats, foreground.is_evenly_lit, is_number=True))
    if len(selected) > MAX_PIECES:
        message = f"the image shows {len(selected)} separate marks; expected at most {MAX_NUMBER_DIGITS} digits"
        raise ImageError(422, message)
    boxes = stats[selected, :4]
    boxes[:, 2:] += boxes[:, :2]  # right, bottom
    _check_single_line(boxes)
    height = _measure_height(_join_stacked(boxes))
    tall = boxes[:, 3] - boxes[:, 1] >= MIN_DIGIT_HEIGHT * height
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


def _measure_height(boxes: Boxes) -> float:
    """Return the median height of all but low boxes."""
    heights = boxes[:, 3] - boxes[:, 1]
    return float(np.median(heights[heights >= MIN_LINE_HEIGHT * heights.max()]))


def _join_stacked(boxes: Boxes) -> Boxes:
    """Join the boxes of a line that lie one above the other, as the parts of a broken digit do."""
    boxes = boxes[np.argsort(boxes[:, 0])]
    joined = [boxes[0]]
    for box in boxes[1:]:
        last = joined[-1]
        if min(last[2], box[2]) - box[0] >= MIN_STACKED_OVERLAP * min(last[2] - last[0], box[2] - box[0]):
            joined[-1] = np.concatenate((np.minimum(last[:2], box[:2]), np.maximum(last[2:], box[2:])))
        else:
            joined.append(box)
    return np.array(joined)


def _check_single_line(boxes: Boxes) -> None:
    """Raise SeveralLinesError if components that should be digits do not lie beside each other."""
    height = _measure_height(boxes)
    boxes = boxes[boxes[:, 3] - boxes[:, 1] >= MIN_DIGIT_HEIGHT * height]
    order = np.argsort(boxes[:, 0] + boxes[:, 2])
    lines = np.arange(len(boxes))  # number of the line of every box
    for place, first in enumerate(order.tolist()):
        for second in order[place + 1 :].tolist():
            overlap = min(boxes[first, 3], boxes[second, 3]) - max(boxes[first, 1], boxes[second, 1])
            lower = min(boxes[first, 3] - boxes[first, 1], boxes[second, 3] - boxes[second, 1])
            is_stacked = boxes[second, 0] < boxes[first, 2]
            if overlap >= MIN_OVERLAP * lower or (is_stacked and overlap >= -MAX_BREAK * height):
                lines[lines == lines[second]] = lines[first]
                if overlap >= MIN_OVERLAP * lower:
                    break
    if np.ptp(lines):
        parts = [boxes[lines == number] for number in np.unique(lines)]
        ends = [[*part[:, :2].min(0).tolist(), *part[:, 2:].max(0).tolist()] for part in parts]
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
    """Return the left and right ends of a component with the slant removed."""
    firsts, lasts = mask.argmax(1), mask.shape[1] - mask[:, ::-1].argmax(1)
    filled, shift = mask.any(1), left - slant * (top + np.arange(len(mask)))
    return float((firsts + shift)[filled].min()), float((lasts + shift)[filled].max())


def cut_pieces(line: Line, rows: Container[int]) -> Line:
    """Cut the pieces of these indices along the slant, at the minima of their projection."""
    labels = np.full_like(line.labels, -1)
    pieces: list[Piece] = []
    for row, piece in enumerate(line.pieces):
        left, top, right, bottom = piece.box
        mask = line.labels[top:bottom, left:right] == row
        upright = np.arange(right - left) - line.slant * np.arange(bottom - top)[:, np.newaxis]  # [height,width]
        cuts = _find_cuts(upright[mask], line.height) if row in rows else []
        part = np.searchsorted(cuts, upright)  # number of cuts to the left
        is_cut = piece.is_cut
        for index in np.unique(part[mask]):
            own = mask & (part == index)
            x, y, width, height = cv2.boundingRect(own.view(np.uint8))
            labels[top:bottom, left:right][own] = len(pieces)
            box = left + x, top + y, left + x + width, top + y + height
            pieces.append(Piece(box, *_measure_ends(own, left, top, line.slant), is_cut))
            is_cut = True
    return replace(line, labels=labels, pieces=pieces)


def _find_cuts(positions: NDArray[np.float64], line_height: float) -> list[float]:
    """Find where along the line a component of pixels at positions [n] may be cut, the thinnest places first."""
    start = float(positions.min())
    thickness = np.bincount((positions - start).astype(int))
    edge = math.ceil(MIN_PIECE_WIDTH * line_height)
    cuts: list[int] = []
    for place in sorted(range(edge, len(thickness) - edge), key=lambda place: thickness[place]):
        if all(abs(place - cut) >= CUT_DISTANCE * line_height for cut in cuts):
            cuts.append(place)
    return [start + cut for cut in sorted(cuts)]
