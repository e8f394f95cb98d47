"""Which score tells digits from the rest best: measured on validation pictures and on outliers that no report sees."""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from torch import Tensor

from evaluation.ood_scores import auroc
from handler.confidence import Calibration, negative_entropy, read_calibration
from handler.preprocessing import Grey, ImageError, frame_grey
from serving.config import ROOT
from training.calibration import REFUSED
from training.data import load_data
from training.export import RECORD
from training.measures import evaluate
from training.model import load_model
from training.predict import RELEASED
from training.rounds import logits_of
from training.synthetic_outliers import outliers

COUNT = 2000  # pictures of each kind of outlier
SEED = 2  # of those drawn here, other than training's
SIDES = (28, 200)  # pixels, of patches of photographs

Score = Callable[[Tensor, Calibration], Tensor]


def _entropy(softer: float) -> Score:
    return lambda logits, calibration: negative_entropy(logits, softer * calibration.temperature)


SCORES: Final[dict[str, Score]] = {
    "maximum probability": lambda logits, calibration: calibration.probabilities(logits).amax(1),
    **{f"negative entropy at {softer:g} times the temperature": _entropy(softer) for softer in (1, 1.5, 2, 4)},
    "negative energy": lambda logits, _: logits.double().logsumexp(1),
    "maximum logit": lambda logits, _: logits.double().amax(1),
    "margin of two logits": lambda logits, _: -logits.double().topk(2).values.diff()[:, 0],
}


def compare(source: str) -> Iterator[str]:
    """A table of all scores, line by line: AUROC, and the share that the threshold would refuse; raises DataError."""
    data = load_data(source)
    model, calibration = load_model(RELEASED), read_calibration(ROOT / RECORD)
    measures = evaluate(model, data.validation)
    kinds = {"drawn as in training": _drawn(data.train.frames), "patches of photographs": _patches()}
    logits = {kind: logits_of(model, torch.from_numpy(frames)) for kind, frames in kinds.items()}
    wrong = measures.logits.argmax(1) != measures.labels
    yield "| score | " + " | ".join(f"{kind}: AUROC | refused" for kind in kinds) + " | own mistakes: AUROC |"
    yield "|---" * (2 * len(kinds) + 2) + "|"
    for name, of in SCORES.items():
        digits = of(measures.logits, calibration)
        cells = [_cells(digits, of(each, calibration)) for each in logits.values()]
        mistakes = auroc(digits[~wrong].numpy(), digits[wrong].numpy())
        yield f"| {name} | " + " | ".join(cells) + f" | {mistakes:.4f} |"


def _cells(digits: Tensor, others: Tensor) -> str:
    refused = float((others < digits.quantile(REFUSED)).double().mean())
    return f"{auroc(digits.numpy(), others.numpy()):.4f} | {refused:.1%}"


def _drawn(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return outliers(frames, COUNT, np.random.default_rng(SEED))


def _patches() -> NDArray[np.uint8]:
    """Frames of patches of scikit-learn's two photographs, those in which framing finds anything."""
    random = np.random.default_rng(SEED)
    photographs = [image.mean(2).astype(np.uint8) for image in load_sample_images().images]
    frames = [_framed(_patch(photographs[random.integers(len(photographs))], random)) for _ in range(COUNT)]
    return np.array([each for each in frames if each is not None])


def _patch(photograph: Grey, random: np.random.Generator) -> Grey:
    side = random.integers(*SIDES)
    top, left = (random.integers(length - side) for length in photograph.shape)
    return photograph[top : top + side, left : left + side]


def _framed(grey: Grey) -> Grey | None:
    try:
        return frame_grey(grey)
    except ImageError:
        return None
