"""Read a number: classify the candidates for its digits and find the best path through the segmentation graph.

Over-segmentation and recognition: LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document
recognition, Proc. IEEE 86, 1998, section V. The graph's nodes are the gaps between a line's pieces, its edges are the
candidates; the segment model was trained to know which of these are one whole digit.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from handler.calibration import compute_negative_entropy
from handler.classifier import MODEL_BATCH_SIZE, Classifier, load_gray_network
from handler.decoding import GrayImage, ImageError
from handler.geometry import crop_components, deslant, place_in_frame
from handler.number_segmentation import MAX_PIECES, MIN_DIGIT_HEIGHT, Line, cut_pieces
from handler.preprocessing import NumberImage, Position, to_input
from handler.protocol import MAX_NUMBER_DIGITS, UNREAD_MARKS
from handler.segmentation import Components

NOT_A_DIGIT = 10  # class of the segment model, after the ten digits
MAX_RUN = 8  # pieces of a digit
MAX_WIDTH, MAX_HEIGHT = 1.35, 1.5  # of a candidate that is no component, in heights of the line
MAX_GAP = 0.12  # between the components of a digit, in heights of the line; dots have none
DOT_SIZE = 0.3  # a component whose sides are both smaller, in heights of the line, is a dot
SURE = 0.9  # probability of a digit below which its pieces are cut
SURE_WIDTH = 1.1  # width of a digit, in heights of the line, above which its pieces are cut
MIN_CUT_WIDTH = 0.4  # of a piece that is cut, in heights of the line
SKIP_COST = 5.0  # of a piece that belongs to no digit, in nats per height of the line
CUT_COST = 1.0  # of a cut, in nats
MIN_PROBABILITY = 1e-9  # smaller probabilities count as this
MIN_IS_DIGIT = math.log(0.5)  # logarithm of the probability of being a digit, below which one is rejected
SEGMENT_MODEL, SEGMENT_RECORD = "segment_model.pt", "segment_model.json"  # files beside this module


@dataclass(frozen=True)
class NumberCalibration:
    """Exponent of a number's confidence and acceptance thresholds, fitted to numbers of validation digits."""

    exponent: float = 1.0
    threshold: float = 0.0  # of the confidence, if every digit is made of whole components
    cut_threshold: float = 0.0  # of the confidence, if a component was cut

    def compute_confidence(self, reading: "Reading") -> float:
        """Return the probability that the whole number is right."""
        return math.exp(self.exponent * reading.log_probability)

    def accept(self, reading: "Reading") -> bool:
        threshold = self.cut_threshold if reading.has_cuts else self.threshold
        return self.compute_confidence(reading) >= threshold


class Candidate(NamedTuple):
    """The pieces first to last (exclusive) of a line, which may be one digit."""

    first: int
    last: int


def list_candidates(line: Line) -> list[Candidate]:
    """Return all runs of pieces that may be one digit: components, and runs of a digit's size with small gaps."""
    candidates, count = [], len(line.pieces)
    for first in range(count):
        for last in range(first + 1, min(count, first + MAX_RUN) + 1):
            width, height = line.measure(first, last)
            added = last - 1
            if added > first and not _may_belong_together(line, first, added):
                break
            is_component = all(row == count or line.pieces[row].cut_cost is None for row in (first, last)) and all(
                piece.cut_cost is not None for piece in line.pieces[first + 1 : last]
            )
            if height >= MIN_DIGIT_HEIGHT and (is_component or (width <= MAX_WIDTH and height <= MAX_HEIGHT)):
                candidates.append(Candidate(first, last))
    return candidates


def _may_belong_together(line: Line, first: int, added: int) -> bool:
    """Return whether the added piece may belong to the digit of those before it: a part, or a component near them."""
    piece = line.pieces[added]
    if piece.cut_cost is not None:
        return True
    gap = piece.left - max(other.right for other in line.pieces[first:added])
    is_dot = any(max(line.measure(row, row + 1)) < DOT_SIZE for row in (added - 1, added))
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


class Scores(NamedTuple):
    """Logarithms of N candidates' probabilities: of the ten digits [N,10] if it is one, and of being one [N]."""

    digits: NDArray[np.float64]
    is_digit: NDArray[np.float64]


class Reading(NamedTuple):
    """The best path through a line's graph: its digits' candidates and scores, and whether pieces are left over."""

    line: Line
    digits: list[Candidate]
    scores: Scores
    has_rest: bool

    @property
    def text(self) -> str:
        return "".join(map(str, self.scores.digits.argmax(1)))

    @property
    def log_probabilities(self) -> NDArray[np.float64]:
        """Logarithm of the probability [N] that a digit is one and is read right."""
        return np.asarray(self.scores.digits.max(1) + self.scores.is_digit)

    @property
    def log_probability(self) -> float:
        return float(self.log_probabilities.sum())

    @property
    def has_cuts(self) -> bool:
        return any(self.line.pieces[digit.first].cut_cost is not None for digit in self.digits)


def find_best_path(line: Line, candidates: Sequence[Candidate], scores: Scores) -> Reading:
    """Find the most probable path through the graph by dynamic programming (Viterbi)."""
    count = len(line.pieces)
    best = [0.0] + [-math.inf] * count
    steps = [(0, -1)] * (count + 1)  # the node before and the candidate between
    gains = scores.digits.max(1) + scores.is_digit
    edges: list[list[tuple[float, int, int]]] = [[] for _ in best]  # to a node: gain, node before, candidate
    for row, (candidate, gain) in enumerate(zip(candidates, gains.tolist(), strict=True)):
        is_cut = line.pieces[candidate.first].cut_cost is not None
        edges[candidate.last].append((gain - CUT_COST * is_cut, candidate.first, row))
    for last in range(1, count + 1):
        edges[last].append((-SKIP_COST * (0.5 + line.measure(last - 1, last)[1]), last - 1, -1))
        best[last], *step = max((best[first] + gain, first, row) for gain, first, row in edges[last])
        steps[last] = step[0], step[1]
    rows, node = [], count
    while node:
        node, row = steps[node]
        rows.append(row)
    digits = [row for row in reversed(rows) if row >= 0]
    path = Scores(scores.digits[digits], scores.is_digit[digits])
    return Reading(line, [candidates[row] for row in digits], path, -1 in rows)


class NumberReader:
    """Reads lines of digits with the classifier and the segment model."""

    def __init__(self, classifier: Classifier, segment_model: torch.nn.Module, calibration: NumberCalibration) -> None:
        self.classifier, self.segment_model, self.calibration = classifier, segment_model, calibration

    @classmethod
    def load(cls, classifier: Classifier, folder: Path) -> "NumberReader":
        """Load the segment model and the calibration in its record."""
        record = json.loads((folder / SEGMENT_RECORD).read_text())
        return cls(classifier, load_gray_network(folder / SEGMENT_MODEL), NumberCalibration(**record["calibration"]))

    def read(self, image: NumberImage) -> dict[str, Any]:
        """Return the fields of a number's response; raise ImageError 422 without a digit or with too many."""
        reading = self.segment(image.line)
        if not 1 <= len(reading.digits) <= MAX_NUMBER_DIGITS:
            found = len(reading.digits) or "no"
            raise ImageError(
                422, f"the image shows {found} digits; expected a number of 1 to {MAX_NUMBER_DIGITS} digits"
            )
        digits = self._describe_digits(reading, image.position)
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
        probabilities = np.exp(reading.scores.digits)
        negative_entropy = compute_negative_entropy(torch.from_numpy(probabilities)).numpy()
        accepted = (negative_entropy >= self.classifier.calibration.threshold) & (
            reading.scores.is_digit > MIN_IS_DIGIT
        )
        return [
            {
                "digit": int(row.argmax()),
                "confidence": float(row.max()),
                "accepted": bool(is_accepted),
                "probabilities": row.tolist(),
                "box": position.to_image_box(reading.line.find_box(*candidate)),
            }
            for row, is_accepted, candidate in zip(probabilities, accepted, reading.digits, strict=True)
        ]

    def segment(self, line: Line) -> Reading:
        """Read a line; cut pieces that belong to no sure digit, and read it again."""
        reading = self._read_pieces(line)
        is_sure = [
            log >= math.log(SURE) and line.measure(*candidate)[0] <= SURE_WIDTH
            for log, candidate in zip(reading.log_probabilities, reading.digits, strict=True)
        ]
        sure = {row for candidate in compress(reading.digits, is_sure) for row in range(*candidate)}
        pieces = set(range(len(line.pieces))) - sure
        wide = {row for row in pieces if line.measure(row, row + 1)[0] > MIN_CUT_WIDTH}
        if not wide:
            return reading
        cut = cut_pieces(line, wide)
        return self._read_pieces(cut) if len(cut.pieces) <= MAX_PIECES else reading

    def _read_pieces(self, line: Line) -> Reading:
        candidates = list_candidates(line)
        scores = self._score([frame_candidate(line, candidate) for candidate in candidates])
        return find_best_path(line, candidates, scores)

    def _score(self, frames: list[GrayImage]) -> Scores:
        """Multiply both models' probabilities of the digits (product of experts: Hinton, Neural Computation 2002)."""
        logs = [torch.empty((0, NOT_A_DIGIT))], [torch.empty(0)]
        with torch.inference_mode():
            for start in range(0, len(frames), MODEL_BATCH_SIZE):
                images = to_input(frames[start : start + MODEL_BATCH_SIZE])[:, :1]
                probabilities = self.classifier.calibration.compute_probabilities(self.classifier.network(images))
                segments = self.segment_model(images).double().log_softmax(1)[:, :NOT_A_DIGIT]
                digits = (probabilities.clamp_min(MIN_PROBABILITY).log() + segments).log_softmax(1)
                logs[0].append(digits)
                logs[1].append(segments.logsumexp(1).clamp_min(math.log(MIN_PROBABILITY)))
        return Scores(*(torch.cat(parts).numpy() for parts in logs))
