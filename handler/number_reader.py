"""Read a number: classify the candidates for its digits and find the best path through the segmentation graph.

Over-segmentation and recognition: LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document
recognition, Proc. IEEE 86, 1998, section V. The graph's nodes are the gaps between a line's pieces, its edges are the
candidates. The segment model was trained to know which of these are one digit, and to read pairs of touching digits
whole, as in Hochuli, Oliveira, Britto, Sabourin: Segmentation-free approaches for handwritten numeral string
recognition, 2018. Components that are wide or belong to no sure digit are cut, and the line is read again.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handler.calibration import log_softmax
from handler.classifier import MODEL_BATCH_SIZE, Classifier
from handler.decoding import GrayImage, ImageError
from handler.geometry import crop_components, deslant, place_in_frame
from handler.networks import Network, load_network
from handler.number_segmentation import MAX_PIECES, Line, cut_pieces
from handler.preprocessing import NumberImage, Position, to_gray_input
from handler.protocol import MAX_NUMBER_DIGITS, UNREAD_MARKS
from handler.segmentation import MIN_DIGIT_HEIGHT, Components

NOT_A_DIGIT = 10  # class of the segment model, after the ten digits
FIRST_PAIR = 11  # class of the pair "00", the first of a hundred pairs of touching digits
SEGMENT_CLASSES = FIRST_PAIR + 100
MAX_WIDTH, MAX_PAIR_WIDTH = 1.35, 2.2  # of a group of components, of a part of one; in heights of the line
MAX_HEIGHT = 1.5  # of both
MAX_GAP = 0.12  # between the components of a digit, in heights of the line; a dot has to lie above or below
DOT_SIZE = 0.3  # a component whose sides are both smaller, in heights of the line, is a dot
SURE = 0.9  # probability of a digit below which its pieces are cut
SURE_WIDTH = 1.1  # width of a digit, in heights of the line, above which its pieces are cut
MIN_CUT_WIDTH = 0.4  # of a piece that is cut, in heights of the line
COMPONENT_LOG_ODDS = 3.0  # added to those of a component as narrow as a digit; most cut ones are none, it seldom is
SKIP_COST = 5.0  # in nats, of a piece that belongs to no digit, half as high as the line; it grows with the height
MIN_PROBABILITY = 1e-9  # smaller probabilities of the classifier count as this
MIN_LOG_IS_READ = math.log(0.5)  # logarithm of the probability of being a digit or a pair, below which it is rejected
SEGMENT_MODEL, SEGMENT_RECORD = "segment_model.pt", "segment_model.json"  # files beside this module
SEGMENT_ONNX = "segment_model.onnx"  # the same model for readers without torch; not in archives


@dataclass(frozen=True)
class NumberCalibration:
    """Exponent of a number's confidence and acceptance thresholds, fitted to numbers of validation digits."""

    exponent: float = 1.0
    threshold: float = 0.0  # of the confidence, if no digits touch
    touch_threshold: float = 0.0  # of the confidence, if some do

    def compute_confidence(self, reading: "Reading") -> float:
        """Return the probability that the whole number is right."""
        return min(1.0, math.exp(self.exponent * reading.log_probability))

    def accept(self, reading: "Reading") -> bool:
        threshold = self.touch_threshold if reading.has_touches else self.threshold
        return self.compute_confidence(reading) >= threshold


class Candidate(NamedTuple):
    """The pieces first to last (exclusive) of a line, which may be one digit or a pair of touching ones."""

    first: int
    last: int


def list_candidates(line: Line) -> list[Candidate]:
    """Return all runs of pieces that may be digits: components, and runs of such a size with small gaps."""
    candidates, count = [], len(line.pieces)
    for first in range(count):
        for last in range(first + 1, count + 1):
            width, height = line.measure(first, last)
            is_connected = line.is_connected(first, last)
            added = last - 1
            if not is_connected and (width > MAX_WIDTH or not _may_belong_together(line, first, added)):
                break
            is_small = width <= MAX_PAIR_WIDTH and height <= MAX_HEIGHT
            if height >= MIN_DIGIT_HEIGHT and (is_small or line.is_component(first, last)):
                candidates.append(Candidate(first, last))
    return candidates


def _may_belong_together(line: Line, first: int, added: int) -> bool:
    """Return whether the added piece may belong to the digit of those before it: a part, or a component near them."""
    piece = line.pieces[added]
    if piece.is_cut:
        return True
    gap = piece.left - max(other.right for other in line.pieces[first:added])
    is_dot = any(max(line.measure(index, index + 1)) < DOT_SIZE for index in (added - 1, added))
    return gap <= (0 if is_dot else MAX_GAP * line.height)


def frame_candidate(line: Line, candidate: Candidate) -> GrayImage:
    """Frame a candidate as a digit alone on its image: uint8 [64,64]."""
    left, top, right, bottom = line.find_box(*candidate)
    labels = line.labels[top:bottom, left:right]
    own = (labels >= candidate.first) & (labels < candidate.last)
    intensity = line.foreground.intensity[top:bottom, left:right] * (own | (labels < 0))  # without the neighbors
    components = Components(np.array([[0, 0, right - left, bottom - top]]), own * np.uint8(255), line.contrast)
    cropped = crop_components(line.foreground._replace(intensity=intensity), components)
    return place_in_frame(deslant(cropped))


class Segment(NamedTuple):
    """A candidate read as one digit or as a pair; logarithms of probabilities."""

    candidate: Candidate
    digits: NDArray[np.float64]  # [1 or 2,10], given that it is one digit, or a pair
    log_is_read: float  # of being one digit, or a pair

    @property
    def log_probability(self) -> float:
        return float(self.digits.max(1).sum() + self.log_is_read)

    def find_boxes(self, line: Line) -> list[tuple[int, int, int, int]]:
        """Return left, top, right and bottom of every digit."""
        return line.split_box(*self.candidate) if len(self.digits) > 1 else [line.find_box(*self.candidate)]


class Reading(NamedTuple):
    """The best path through a line's graph."""

    line: Line
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(str(digit) for segment in self.segments for digit in segment.digits.argmax(1))

    @property
    def log_probability(self) -> float:
        """Logarithm of the product of the digits' probabilities."""
        return sum(segment.log_probability for segment in self.segments)

    @property
    def has_rest(self) -> bool:
        """Whether there are pieces that belong to no digit."""
        return sum(last - first for (first, last), *_ in self.segments) < len(self.line.pieces)

    @property
    def has_touches(self) -> bool:
        return any(
            len(segment.digits) > 1 or self.line.pieces[segment.candidate.first].is_cut for segment in self.segments
        )


def find_best_path(line: Line, segments: Sequence[Segment]) -> Reading:
    """Find the most probable path through the graph by dynamic programming (Viterbi)."""
    paths: list[tuple[float, tuple[Segment, ...]]] = [(0.0, ())]  # the best to every node, with its gain
    for last in range(1, len(line.pieces) + 1):
        gain, path = paths[-1]
        options = [(gain - SKIP_COST * (0.5 + line.measure(last - 1, last)[1]), path)]
        for segment in segments:
            if segment.candidate.last == last:
                gain, path = paths[segment.candidate.first]
                options.append((gain + segment.log_probability, (*path, segment)))
        paths.append(max(options, key=lambda option: option[0]))
    return Reading(line, paths[-1][1])


class NumberReader:
    """Reads lines of digits with the classifier and the segment model."""

    def __init__(self, classifier: Classifier, segment_model: Network, calibration: NumberCalibration) -> None:
        self.classifier, self.segment_model, self.calibration = classifier, segment_model, calibration

    @classmethod
    def load(cls, classifier: Classifier, segment_model: Path) -> "NumberReader":
        """Load the scripted or ONNX segment model and the calibration in its record."""
        record = json.loads(segment_model.with_name(SEGMENT_RECORD).read_text())
        return cls(classifier, load_network(segment_model), NumberCalibration(**record["calibration"]))

    def read(self, image: NumberImage) -> dict[str, Any]:
        """Return the fields of a number's response; raise ImageError 422 without a digit or with too many."""
        reading = self.read_line(image.line)
        digits = self._describe_digits(reading, image.position)
        if not 1 <= len(digits) <= MAX_NUMBER_DIGITS:
            expected = f"expected a number of 1 to {MAX_NUMBER_DIGITS} digits"
            raise ImageError(422, f"the image shows {len(digits) or 'no'} digits; {expected}")
        is_sure = self.calibration.accept(reading) and all(digit["accepted"] for digit in digits)
        return {
            "number": reading.text,
            "confidence": self.calibration.compute_confidence(reading),
            "accepted": is_sure and not reading.has_rest,
            "digits": digits,
            "warnings": image.warnings + (UNREAD_MARKS,) * reading.has_rest,
            "model_version": self.classifier.version,
        }

    def _describe_digits(self, reading: Reading, position: Position) -> list[dict[str, Any]]:
        digits = []
        for segment in reading.segments:
            probabilities = np.exp(segment.digits)
            sure = self.classifier.calibration.accept_probabilities(probabilities)
            boxes = segment.find_boxes(reading.line)
            for row, is_sure, box in zip(probabilities, sure.tolist(), boxes, strict=True):
                digits.append(
                    {
                        "digit": int(row.argmax()),
                        "confidence": float(row.max()),
                        "accepted": bool(is_sure and segment.log_is_read > MIN_LOG_IS_READ),
                        "probabilities": row.tolist(),
                        "box": position.to_image_box(box),
                    }
                )
        return digits

    def read_line(self, line: Line) -> Reading:
        """Read a line; cut pieces that belong to no sure digit, and read it again."""
        reading = self._read_pieces(line)
        sure = {
            index
            for segment in reading.segments
            if segment.log_probability >= math.log(SURE)
            and line.measure(*segment.candidate)[0] <= SURE_WIDTH * len(segment.digits)
            for index in range(*segment.candidate)
        }
        unsure = set(range(len(line.pieces))) - sure
        wide = {index for index in unsure if line.measure(index, index + 1)[0] > MIN_CUT_WIDTH}
        if not wide:
            return reading
        cut = cut_pieces(line, wide)
        return self._read_pieces(cut) if len(cut.pieces) <= MAX_PIECES else reading

    def _read_pieces(self, line: Line) -> Reading:
        candidates = list_candidates(line)
        if not candidates:
            return Reading(line, ())
        is_narrow = [line.is_component(*run) and line.measure(*run)[0] <= SURE_WIDTH for run in candidates]
        frames = [frame_candidate(line, candidate) for candidate in candidates]
        digits, log_is_digit, pairs, log_is_pair = self._classify(frames, np.array(is_narrow))
        singles = [Segment(*values) for values in zip(candidates, digits, log_is_digit, strict=True)]
        touching = [Segment(*values) for values in zip(candidates, pairs, log_is_pair, strict=True)]
        return find_best_path(line, singles + [pair for pair in touching if line.is_connected(*pair.candidate)])

    def _classify(self, frames: list[GrayImage], is_narrow: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
        """Return logarithms of probabilities: digits [N,1,10], of one [N]; digits of pairs [N,2,10], of a pair [N].

        Both models' probabilities of a single digit are multiplied (product of experts: Hinton, Neural Computation 14,
        2002).
        """
        starts = range(0, len(frames), MODEL_BATCH_SIZE)
        batches = [to_gray_input(frames[start : start + MODEL_BATCH_SIZE]) for start in starts]
        logits = np.concatenate([self.classifier.network(images) for images in batches])
        segment_logits = np.concatenate([self.segment_model(images) for images in batches]).astype(np.float64)
        probabilities = self.classifier.calibration.compute_probabilities(logits)
        segment_logits[:, NOT_A_DIGIT] -= COMPONENT_LOG_ODDS * is_narrow
        segments = log_softmax(segment_logits)
        singles, pairs = segments[:, :10], segments[:, FIRST_PAIR:].reshape(-1, 10, 10)
        product = log_softmax(np.log(np.maximum(probabilities, MIN_PROBABILITY)) + singles)
        log_digits = np.stack((np.logaddexp.reduce(pairs, 2), np.logaddexp.reduce(pairs, 1)), 1)  # of pairs, [N,2,10]
        log_is_pair = np.logaddexp.reduce(log_digits[:, 0], 1)
        digits_of_pairs = log_digits - log_is_pair[:, np.newaxis, np.newaxis]
        return product[:, np.newaxis], np.logaddexp.reduce(singles, 1), digits_of_pairs, log_is_pair
