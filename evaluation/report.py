"""Asks the released model, through the handler, about every set there is; writes docs/report.md and its pictures."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation import figures
from evaluation.handler_runner import HandlerRunner, Responses, start_handler
from evaluation.ood_scores import compute_auroc, compute_calibration_error
from evaluation.outlier_sets import MissingData
from evaluation.sets import (
    CLEAN,
    PHOTO_LIKE,
    Sample,
    digit_sets,
    encode_png,
    fashion_set,
    outlier_sets,
    scikit_learn_digits,
)
from handler.calibration import SCORE_TEMPERATURE_SCALE, Calibration
from serving.config import ROOT
from training.data import load_raw_images
from training.export import RECORD
from training.model_metrics import Evaluation
from training.plots import plot_confusion_matrix

SEED = 3  # of every set that is drawn
PICTURES = Path("report")  # beside the report

PAGE = """# Report

What the released model (run `{run}`) answers on pictures of digits and of other things, asked through the handler of
its archive, in its batches. Written by `make report`; the digit sets are made of {data}.

## Digits

ECE is the expected calibration error (15 bins). A digit that was refused as blank counts as wrong.

| set | pictures | right | ECE | accepted | right among accepted |
|---|---|---|---|---|---|
{digits}

![Confusion matrix](report/confusion_matrix.png)
![Reliability](report/reliability.png)

## What is no digit

A picture is accepted if its score is at least {threshold:.4f} nats: the negative entropy of probabilities at {softer:g}
times the temperature of its confidence, which is {temperature:.4f}. AUROC: how well the score tells the {clean} digits
from the set; what is refused as blank has the lowest score.

| set | pictures | AUROC | refused | of these as blank |
|---|---|---|---|---|
{outliers}

## Framing

![Framing](report/framing.png)

## The worst mistakes

The picture, and the frame that the model saw; the most confident first. {clean}:

![Mistakes](report/mistakes_{clean}.png)

{photo}:

![Mistakes](report/mistakes_{photo}.png)
"""


@dataclass(frozen=True)
class Result:
    """A set, and what the handler answered."""

    sample: Sample
    answers: Responses

    @property
    def labels(self) -> NDArray[np.int64]:
        assert self.sample.labels is not None
        return self.sample.labels

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.answers.digits == self.labels)


def run_report(given: argparse.Namespace) -> int:
    """Write the report and print its path."""
    print(write_report(given.data, given.out, given.photos, given.outliers, given.part))
    return 0


def write_report(source: str, folder: Path, photos: int, outlier_count: int, part: str = "test") -> Path:
    """Writes report.md and its pictures below `folder` from MNIST's `part` in `source`; raises DataError."""
    greys, labels = load_raw_images(source, part)
    calibration = json.loads((ROOT / RECORD).read_text()).get("calibration", {})
    with start_handler() as handler:
        digits = [
            _result(handler, sample)
            for sample in chain(digit_sets(greys, labels, SEED, photos), [scikit_learn_digits()])
        ]
        outliers = [_result(handler, sample) for sample in _outliers(outlier_count)]
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    _draw(folder / PICTURES, digits, greys)
    (folder / "report.md").write_text(_page(source, part, digits, outliers, Calibration(**calibration)))
    return folder / "report.md"


def _outliers(count: int) -> Iterator[Sample]:
    try:
        yield fashion_set()
    except MissingData as missing:
        print(f"left out: {missing}")
    yield from outlier_sets(SEED, count)


def _result(handler: HandlerRunner, sample: Sample) -> Result:
    return Result(sample, handler.answers(sample.pictures, sample.name))


def _draw(folder: Path, digits: list[Result], greys: NDArray[np.uint8]) -> None:
    by_name = {result.sample.name: result for result in digits}
    two = {name: (by_name[name].answers.confidence, by_name[name].right) for name in (CLEAN, PHOTO_LIKE)}
    figures.reliability(two, folder / "reliability.png")
    for name in two:
        _draw_mistakes(by_name[name], folder / f"mistakes_{name}.png")
    figures.stages(_examples(greys, by_name), folder / "framing.png")
    _draw_confusion(by_name[CLEAN], folder / "confusion_matrix.png")


def _draw_mistakes(result: Result, path: Path) -> None:
    wrong = np.flatnonzero(~result.right & ~result.answers.refused)
    pictures = [result.sample.pictures[row] for row in wrong]
    answers = result.answers
    figures.mistakes(pictures, result.labels[wrong], answers.digits[wrong], answers.confidence[wrong], path)


def _draw_confusion(result: Result, path: Path) -> None:
    measures = Evaluation.from_probabilities(result.answers.probabilities, result.labels)
    plot_confusion_matrix(measures, f"{result.sample.name}: accuracy {result.right.mean():.2%}", path)


def _examples(greys: NDArray[np.uint8], results: dict[str, Result]) -> list[tuple[str, bytes]]:
    photos = results[PHOTO_LIKE].sample.pictures
    named = [(name, results[name].sample.pictures[0]) for name in (CLEAN, "off-centre", "noisy")]
    return named + [("photo-like", picture) for picture in photos[:3]] + [("sheet on a table", _on_table(greys[0]))]


def _on_table(grey: NDArray[np.uint8]) -> bytes:
    """A written sheet, a little turned, on a dark table."""
    digit = cv2.resize(grey, (180, 180), interpolation=cv2.INTER_CUBIC) / 255
    sheet = np.full((300, 340), 225.0)
    sheet[60:240, 80:260] *= 1 - 0.75 * digit
    turn = cv2.getRotationMatrix2D((170, 150), 4, 1)
    turn[:, 2] += (80, 50)
    table = cv2.warpAffine(sheet, turn, (500, 400), borderValue=60)
    noisy = table + np.random.default_rng(SEED).normal(0, 3, table.shape)
    return encode_png(noisy.clip(0, 255).astype(np.uint8))


def _page(source: str, part: str, digits: list[Result], outliers: list[Result], calibration: Calibration) -> str:
    run = json.loads((ROOT / RECORD).read_text())
    learnt = "mnist5k's pictures, most of which the released model was trained on"
    return PAGE.format(
        run=run["run_id"],
        data=learnt if source == "mnist5k" else f"MNIST's {part} pictures",
        clean=CLEAN,
        photo=PHOTO_LIKE,
        threshold=calibration.threshold,
        temperature=calibration.temperature,
        softer=SCORE_TEMPERATURE_SCALE,
        digits="\n".join(map(_digit_row, digits)),
        outliers="\n".join(_outlier_row(result, digits[0]) for result in outliers),
    )


def _digit_row(result: Result) -> str:
    answers, right = result.answers, result.right
    error = compute_calibration_error(answers.probabilities, result.labels)
    among = right[answers.accepted].mean() if answers.accepted.any() else float("nan")
    return (
        f"| {result.sample.name} | {len(right):,} | {right.mean():.2%} | {error:.2%} | {answers.accepted.mean():.2%} "
        f"| {among:.2%} |"
    )


def _outlier_row(result: Result, clean: Result) -> str:
    answers = result.answers
    return (
        f"| {result.sample.name} | {len(answers.digits):,} | {compute_auroc(clean.answers.scores, answers.scores):.4f} "
        f"| {1 - answers.accepted.mean():.2%} | {answers.refused.mean():.2%} |"
    )
