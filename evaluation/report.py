"""Evaluate the current models, through the handler, on all image sets; write docs/report.md and its figures."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from common.models import MODEL_FOLDERS, RECORD
from evaluation import figures, sets
from evaluation.handler_runner import start_handler
from evaluation.ood_scores import BINS, compute_auroc
from evaluation.outlier_images import MissingDatasetError
from evaluation.own_images import find_kinds, report_own_images
from evaluation.results import Result, evaluate_set
from handler.calibration import Calibration, read_calibration
from serving.config import ROOT
from training.data import load_raw_images
from training.model_metrics import Evaluation
from training.plots import plot_confusion_matrix
from training.runs import read_record

SEED = 3  # seed of all generated sets
FIGURES = Path("report")  # folder beside report.md

PAGE = """# Evaluation report

Predictions of the shipped models, `default` (run `{default.run}`) and `large` (run `{large.run}`), on digits, corrupted
digits and images without a digit. They come from the handlers of their archives, in batches of the shipped size. The
digit sets are made from {data}. Written by `{command}` (`make report`).

## Digits

Columns "large" are the large model's, the others the default model's. ECE is the expected calibration error ({bins}
bins). An image that the handler finds blank counts as a wrong prediction.

| set | images | accuracy | large | ECE | large | accepted | large | accuracy of accepted | large |
|---|---|---|---|---|---|---|---|---|---|
{digits}

The figures show the default model's predictions.

![Confusion matrix](report/confusion_matrix.png)
![Reliability diagram](report/reliability.png)

## Outliers

A prediction is accepted if its score is at least {thresholds[0]:.4f} nats (large: {thresholds[1]:.4f}). The score
is the negative entropy of the probabilities. AUROC measures how well the score separates the {clean} digits from the
set; a blank image has the lowest score.

| set | images | AUROC | large | rejected or blank | large | blank |
|---|---|---|---|---|---|---|
{outliers}

## Risk and coverage

A higher threshold accepts fewer images (coverage) and makes fewer errors among them (risk).

![Risk-coverage curve](report/risk_coverage.png)

## Framing

![Framing](report/framing.png)

## Synthetic digits

A part of the training digits is drawn in these styles.

![Synthetic digits](report/synthetic_digits.png)

## Mistakes

The wrong predictions with the highest confidence, beside the frame that the model received. {clean}:

![Mistakes](report/mistakes_{clean}.png)

{photo}:

![Mistakes](report/mistakes_{photo}.png)
"""


class ModelResults(NamedTuple):
    """Run id, calibration and results of a model."""

    run: str
    calibration: Calibration
    digits: list[Result]
    outliers: list[Result]


def run_report(args: argparse.Namespace) -> int:
    """Write report.md and its figures, print its path; raise DataError if MNIST's part is missing."""
    if kinds := find_kinds(Path(args.data)):
        return report_own_images(kinds, args.out or Path("mistakes"))
    source, part, photos, outliers, out = args.data, args.part, args.photos, args.outliers, args.out or ROOT / "docs"
    images, labels = load_raw_images(source, part)
    digit_sets = [*sets.make_digit_sets(images, labels, SEED, photos), sets.load_scikit_learn_digits()]
    outlier_sets = list(_make_outlier_sets(outliers))
    results = {model: _evaluate_model(model, digit_sets, outlier_sets) for model in MODEL_FOLDERS}
    command = f"python -m evaluation report --data {source} --part {part} --photos {photos} --outliers {outliers}"
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    _plot_figures(out / FIGURES, results["default"].digits, images, f"run {results['default'].run}; {command}")
    trained_on = "mnist5k, most of which the shipped models were trained on"
    data = trained_on if source == "mnist5k" else f"MNIST's {part} images"
    path = out / "report.md"
    path.write_text(_render_page(data, command, results))
    print(path)
    return 0


def _evaluate_model(model: str, digits: list[sets.ImageSet], outliers: list[sets.ImageSet]) -> ModelResults:
    folder = ROOT / MODEL_FOLDERS[model]
    with start_handler(model) as handler:
        results = [evaluate_set(handler, image_set) for image_set in (*digits, *outliers)]
    run, calibration = read_record(folder)["run_id"], read_calibration(folder / RECORD)
    return ModelResults(run, calibration, results[: len(digits)], results[len(digits) :])


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
    figures.plot_synthetic_digits(SEED, caption, folder / "synthetic_digits.png")
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


def _render_page(data: str, command: str, results: dict[str, ModelResults]) -> str:
    digits = zip(*(result.digits for result in results.values()), strict=True)
    outliers = zip(*(result.outliers for result in results.values()), strict=True)
    cleans = [result.digits[0] for result in results.values()]
    return PAGE.format(
        data=data,
        command=command,
        bins=BINS,
        clean=sets.CLEAN,
        photo=sets.PHOTO_LIKE,
        digits="\n".join(map(_format_digit_row, digits)),
        outliers="\n".join(_format_outlier_row(row, cleans) for row in outliers),
        thresholds=[result.calibration.threshold for result in results.values()],
        **results,
    )


def _format_digit_row(results: Sequence[Result]) -> str:
    columns = [[result.correct.mean() for result in results], [result.calibration_error for result in results]]
    columns += [[result.coverage for result in results], [result.accepted_accuracy for result in results]]
    cells = [results[0].name, f"{results[0].count:,}", *(f"{value:.2%}" for column in columns for value in column)]
    return f"| {' | '.join(cells)} |"


def _format_outlier_row(results: Sequence[Result], cleans: Sequence[Result]) -> str:
    pairs = zip(cleans, results, strict=True)
    aurocs = [f"{compute_auroc(clean.predictions.scores, result.predictions.scores):.4f}" for clean, result in pairs]
    rejected = [f"{1 - result.coverage:.2%}" for result in results]
    cells = [results[0].name, f"{results[0].count:,}", *aurocs, *rejected, f"{results[0].predictions.blank.mean():.2%}"]
    return f"| {' | '.join(cells)} |"
