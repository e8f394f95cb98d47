"""Evaluate the current model, through the handler, on all image sets; write docs/report.md and its figures."""

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation import figures, sets
from evaluation.handler_runner import start_handler
from evaluation.ood_scores import BINS, compute_auroc
from evaluation.outlier_images import MissingDatasetError
from evaluation.own_images import find_kinds, report_own_images
from evaluation.results import Result, evaluate_set
from handler.calibration import SCORE_TEMPERATURE_SCALE, read_calibration
from serving.config import ROOT
from training.data import load_raw_images
from training.export import RECORD
from training.model_metrics import Evaluation
from training.plots import plot_confusion_matrix
from training.runs import read_record

SEED = 3  # seed of all generated sets
FIGURES = Path("report")  # folder beside report.md

PAGE = """# Evaluation report

Predictions of the shipped model (run `{run}`) on digits, corrupted digits and images without a digit. They come from
the handler of its archive, in batches of the shipped size. The digit sets are made from {data}. Written by
`{command}` (`make report`).

## Digits

ECE is the expected calibration error ({bins} bins). An image that the handler finds blank counts as a wrong prediction.

| set | images | accuracy | ECE | accepted | accuracy of accepted |
|---|---|---|---|---|---|
{digits}

![Confusion matrix](report/confusion_matrix.png)
![Reliability diagram](report/reliability.png)

## Outliers

A prediction is accepted if its score is at least {threshold:.4f} nats. The score is the negative entropy of the
probabilities at {scale:g} times the calibration temperature, {temperature:.4f}. AUROC measures how well the score
separates the {clean} digits from the set; a blank image has the lowest score.

| set | images | AUROC | rejected or blank | blank |
|---|---|---|---|---|
{outliers}

## Risk and coverage

A higher threshold accepts fewer images (coverage) and makes fewer errors among them (risk).

![Risk-coverage curve](report/risk_coverage.png)

## Framing

![Framing](report/framing.png)

## Mistakes

The wrong predictions with the highest confidence, beside the frame that the model received. {clean}:

![Mistakes](report/mistakes_{clean}.png)

{photo}:

![Mistakes](report/mistakes_{photo}.png)
"""


def run_report(args: argparse.Namespace) -> int:
    """Write report.md and its figures, print its path; raise DataError if MNIST's part is missing."""
    if kinds := find_kinds(Path(args.data)):
        return report_own_images(kinds, args.out or Path("mistakes"))
    source, part, photos, outliers, out = args.data, args.part, args.photos, args.outliers, args.out or ROOT / "docs"
    images, labels = load_raw_images(source, part)
    with start_handler() as handler:
        digit_sets = chain(sets.make_digit_sets(images, labels, SEED, photos), [sets.load_scikit_learn_digits()])
        digits = [evaluate_set(handler, image_set) for image_set in digit_sets]
        others = [evaluate_set(handler, image_set) for image_set in _make_outlier_sets(outliers)]
    command = f"python -m evaluation report --data {source} --part {part} --photos {photos} --outliers {outliers}"
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    _plot_figures(out / FIGURES, digits, images, f"run {read_record(ROOT)['run_id']}; {command}")
    trained_on = "mnist5k, most of which the shipped model was trained on"
    data = trained_on if source == "mnist5k" else f"MNIST's {part} images"
    path = out / "report.md"
    path.write_text(_render_page(data, command, digits, others))
    print(path)
    return 0


def _make_outlier_sets(count: int) -> Iterator[sets.ImageSet]:
    try:
        yield sets.load_fashion_mnist_set()
    except MissingDatasetError as missing:
        print(f"skipped: {missing}")
    yield from sets.make_outlier_sets(SEED, count)


def _plot_figures(folder: Path, digits: list[Result], images: NDArray[np.uint8], caption: str) -> None:
    by_name = {result.name: result for result in digits}
    clean, photos = by_name[sets.CLEAN], by_name[sets.PHOTO_LIKE]
    figures.plot_reliability((clean, photos), caption, folder / "reliability.png")
    figures.plot_risk_coverage(digits, caption, folder / "risk_coverage.png")
    for result in (clean, photos):
        figures.plot_mistakes(result, caption, folder / f"mistakes_{result.name}.png")
    examples = [(name, by_name[name].image_set.images[0]) for name in (sets.CLEAN, "off-centre", "noisy")]
    examples += [(sets.PHOTO_LIKE, image) for image in photos.image_set.images[:3]]
    examples += [("box on a page", _render_page_on_table(images[0]))]
    figures.plot_framing_steps(examples, caption, folder / "framing.png")
    evaluation = Evaluation.from_probabilities(clean.predictions.probabilities, clean.labels)
    title = f"{sets.CLEAN}, {clean.count:,} images: accuracy {clean.correct.mean():.2%}"
    plot_confusion_matrix(evaluation, title, folder / "confusion_matrix.png", caption)


def _render_page_on_table(gray: NDArray[np.uint8]) -> bytes:
    """Return a PNG of the digit uint8 [28,28] in a box on a page that lies, slightly rotated, on a dark table."""
    digit = cv2.resize(gray, (180, 180), interpolation=cv2.INTER_CUBIC) / 255
    page = np.full((300, 340), 225.0)
    page[60:240, 80:260] *= 1 - 0.75 * digit
    cv2.rectangle(page, (110, 75), (230, 215), 90, 3)
    rotation = cv2.getRotationMatrix2D((170, 150), 4, 1)
    rotation[:, 2] += (80, 50)
    table = cv2.warpAffine(page, rotation, (500, 400), borderValue=60)
    noisy = table + np.random.default_rng(SEED).normal(0, 3, table.shape)
    return sets.encode_png(noisy.clip(0, 255).astype(np.uint8))


def _render_page(data: str, command: str, digits: list[Result], outliers: list[Result]) -> str:
    calibration = read_calibration(ROOT / RECORD)
    return PAGE.format(
        run=read_record(ROOT)["run_id"],
        data=data,
        command=command,
        bins=BINS,
        clean=sets.CLEAN,
        photo=sets.PHOTO_LIKE,
        threshold=calibration.threshold,
        temperature=calibration.temperature,
        scale=SCORE_TEMPERATURE_SCALE,
        digits="\n".join(map(_format_digit_row, digits)),
        outliers="\n".join(_format_outlier_row(result, digits[0]) for result in outliers),
    )


def _format_digit_row(result: Result) -> str:
    return (
        f"| {result.name} | {result.count:,} | {result.correct.mean():.2%} | {result.calibration_error:.2%} "
        f"| {result.coverage:.2%} | {result.accepted_accuracy:.2%} |"
    )


def _format_outlier_row(result: Result, clean: Result) -> str:
    predictions = result.predictions
    return (
        f"| {result.name} | {result.count:,} | {compute_auroc(clean.predictions.scores, predictions.scores):.4f} "
        f"| {1 - result.coverage:.2%} | {predictions.blank.mean():.2%} |"
    )
