"""Training data of the segment model: segments of synthetic numbers, labeled as a digit, a pair of digits or neither.

The segments are the candidates of handler/number_reader.py, so the model learns from the cuts that it will be shown.
"""

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray

from common.command_line import show_progress
from handler.background import estimate_background, extract_foreground
from handler.decoding import GrayImage
from handler.number_reader import FIRST_PAIR, NOT_A_DIGIT, frame_candidate, list_candidates
from handler.number_segmentation import cut_pieces, segment_line
from handler.preprocessing import ImageError
from training.augment import augment_images
from training.synthetic_digits import draw_digit
from training.synthetic_numbers import INK_LEVEL, NARROW_GAPS, WIDE_GAPS, ComposedNumber, compose_number
from training.synthetic_outliers import CANVAS, draw_letter, draw_scribble, draw_shapes, draw_symbol

Random = np.random.Generator
Segments = tuple[NDArray[np.uint8], NDArray[np.int64]]  # frames [N,64,64], classes [N]

LENGTHS = {1: 0.15, 2: 0.45, 3: 0.2, 4: 0.12, 5: 0.08}  # digits of a number -> share of numbers
NARROW_RATIO = 0.75  # share of numbers with narrow gaps, whose digits touch
SYNTHETIC_RATIO, OUTLIER_RATIO = 0.12, 0.08  # shares of the digits that are drawn in a style, or are none
OUTLIERS = (draw_symbol, draw_symbol, draw_letter, draw_scribble, draw_shapes)
MIN_COVERED, MIN_PURE = 0.85, 0.85  # shares of the digit's pixels, and of the segment's, that a digit's segment has
MAX_SHARED = 0.74  # smaller share of the two in a segment that is no digit; between the limits it is not used
MIN_OTHERS = 3  # segments without a digit taken from a number; otherwise twice as many as digits
AUGMENTED_RATIO, MILD_RATIO = 0.5, 0.4  # shares of the segments that are augmented, and of these only mildly
NUMBERS_PER_TASK = 250


def make_segments(
    frames: NDArray[np.uint8], labels: NDArray[np.int64], count: int, seed: int, processes: int
) -> Segments:
    """Return the segments of `count` numbers that are composed of digit frames uint8 [n,64,64]."""
    tasks = show_progress(range(-(-count // NUMBERS_PER_TASK)), "numbers")
    parts = Parallel(processes)(delayed(_make_part)(frames, labels, [seed, task]) for task in tasks)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _make_part(frames: NDArray[np.uint8], labels: NDArray[np.int64], seed: list[int]) -> Segments:
    random = np.random.default_rng(seed)
    torch_random = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**62)))
    torch.set_num_threads(1)
    segments: list[tuple[GrayImage, int]] = []
    for _ in range(NUMBERS_PER_TASK):
        number, classes = _compose(frames, labels, random)
        segments += _label_segments(number, classes, random)
    images = torch.from_numpy(np.array([frame for frame, _ in segments]))
    chosen = torch.rand(len(images), generator=torch_random) < AUGMENTED_RATIO
    gray = images[chosen].unsqueeze(1).float() / 255
    images[chosen] = (augment_images(gray, torch_random, MILD_RATIO) * 255).round().byte().squeeze(1)
    return images.numpy(), np.array([label for _, label in segments])


def _compose(frames: NDArray[np.uint8], labels: NDArray[np.int64], random: Random) -> tuple[ComposedNumber, list[int]]:
    """Compose a number; return it with the classes of what it is composed of."""
    length = int(random.choice(list(LENGTHS), p=list(LENGTHS.values())))
    digits, classes = [], []
    for row in random.integers(len(frames), size=length).tolist():
        choice, label = random.random(), int(labels[row])
        if choice < OUTLIER_RATIO:
            digit, label = _draw_outlier(frames, random), NOT_A_DIGIT
        else:
            digit = draw_digit(label, random) if choice < OUTLIER_RATIO + SYNTHETIC_RATIO else frames[row]
        digits.append(digit)
        classes.append(label)
    return compose_number(digits, NARROW_GAPS if random.random() < NARROW_RATIO else WIDE_GAPS, random), classes


def _draw_outlier(frames: NDArray[np.uint8], random: Random) -> GrayImage:
    while True:
        image = OUTLIERS[random.integers(len(OUTLIERS))](frames, random)
        if np.count_nonzero(image >= INK_LEVEL) > CANVAS:
            return image


def _label_segments(number: ComposedNumber, classes: list[int], random: Random) -> list[tuple[GrayImage, int]]:
    """Return frames and classes of the number's segments; none if it is not read as one line."""
    try:
        line = segment_line(extract_foreground(number.image, estimate_background(number.image)))
        line = cut_pieces(line, range(len(line.pieces)))
    except ImageError:
        return []
    count = len(line.pieces) + 1
    areas = np.bincount((line.labels + 1).ravel(), minlength=count)[1:]
    layers = number.layers >= INK_LEVEL
    shared = np.array([np.bincount(line.labels[layer] + 1, minlength=count)[1:] for layer in layers])  # [digits,pieces]
    singles, pairs, others = [], [], []
    for candidate in list_candidates(line):
        part = slice(candidate.first, candidate.last)
        common = shared[:, part].sum(1)
        covered, pure = common / np.maximum(layers.sum((1, 2)), 1), common / areas[part].sum()
        best = int(np.minimum(covered, pure).argmax())
        inside = np.flatnonzero(covered >= MIN_COVERED)
        if len(inside) == 2 and inside[1] == inside[0] + 1 and pure[inside].sum() >= MIN_PURE:
            first, second = (classes[row] for row in inside)
            is_pair = NOT_A_DIGIT not in (first, second)
            pairs.append((candidate, FIRST_PAIR + 10 * first + second if is_pair else NOT_A_DIGIT))
        elif covered[best] >= MIN_COVERED and pure[best] >= MIN_PURE:
            singles.append((candidate, classes[best]))
        elif min(covered[best], pure[best]) < MAX_SHARED:
            others.append((candidate, NOT_A_DIGIT))
    kept = random.permutation(len(others))[: max(MIN_OTHERS, 2 * len(singles))]
    labeled = singles + pairs + [others[row] for row in kept]
    return [(frame_candidate(line, candidate), label) for candidate, label in labeled]
