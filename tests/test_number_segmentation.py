"""Tests of handler/number_segmentation.py: pieces, lines and cuts."""

import numpy as np
import pytest

from handler.decoding import ImageError
from handler.number_reader import Candidate, list_candidates
from handler.number_segmentation import MAX_PIECES, SeveralLinesError, cut_pieces, segment_line
from tests.images import draw_boxes, make_foreground
from tests.number_images import draw_number


def test_pieces_are_in_the_order_of_a_slanted_line() -> None:
    boxes = [(60 - 8 * row, 90 - 8 * row, 10 + 20 * row, 20 + 20 * row) for row in range(4)]
    line = segment_line(make_foreground(draw_boxes(*boxes)))
    assert [piece.box for piece in line.pieces] == [(left, top, right, bottom) for top, bottom, left, right in boxes]
    assert line.height == 30
    assert set(np.unique(line.labels)) == {-1, 0, 1, 2, 3}


def test_detached_bar_belongs_to_the_line_of_its_digit() -> None:
    line = segment_line(make_foreground(draw_boxes((20, 60, 10, 30), (20, 30, 40, 60), (38, 60, 40, 50))))
    assert len(line.pieces) == 3


def test_parts_of_a_broken_digit_are_measured_as_one() -> None:
    line = segment_line(make_foreground(draw_boxes((10, 24, 10, 30), (26, 40, 12, 30))))
    assert line.height == 30
    assert Candidate(0, 2) in list_candidates(line)


@pytest.mark.parametrize("is_evenly_lit", [True, False])
def test_thin_faint_digit_is_kept_but_a_speck_is_not(is_evenly_lit: bool) -> None:
    bold, thin, speck = draw_boxes((20, 60, 10, 35)), draw_boxes((22, 58, 50, 52)), draw_boxes((40, 46, 70, 78))
    intensity = bold + thin // 5 * 2 + speck // 5 * 2
    line = segment_line(make_foreground(intensity, is_evenly_lit=is_evenly_lit))
    assert [piece.box for piece in line.pieces] == [(10, 20, 35, 60), (50, 22, 52, 58)]


def test_lines_one_above_the_other_are_an_error_with_their_boxes() -> None:
    lines = draw_boxes((10, 30, 10, 20), (10, 30, 30, 40), (50, 70, 10, 20), (50, 70, 30, 45))
    with pytest.raises(SeveralLinesError, match="the image shows 2 lines") as caught:
        segment_line(make_foreground(lines))
    assert caught.value.boxes == [[10, 10, 40, 30], [10, 50, 45, 70]]


def test_far_too_many_marks_are_an_error() -> None:
    dots = np.zeros((200, 200), np.uint8)
    dots[::10, ::10] = 255
    with pytest.raises(ImageError, match=r"400 separate marks; expected at most 32 digits"):
        segment_line(make_foreground(dots))
    assert MAX_PIECES < 400


@pytest.mark.parametrize("scale", [1, 5])
def test_touching_digits_are_cut_between_them(scale: int) -> None:
    image = np.kron(draw_number("38", gap=-2), np.ones((scale, scale), np.uint8))
    line = segment_line(make_foreground(image))
    assert len(line.pieces) == 1
    cut = cut_pieces(line, [0])
    assert [piece.is_cut for piece in cut.pieces] == [False] + [True] * (len(cut.pieces) - 1)
    border = 8 + draw_number("3").shape[1] - 16
    assert min(abs(piece.box[0] / scale - border) for piece in cut.pieces[1:]) <= 3
    assert np.array_equal(cut.labels >= 0, line.labels >= 0)
