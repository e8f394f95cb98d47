"""Evaluate how the current models read numbers, through the handler; write docs/numbers_report.md and its figure."""

import argparse
import math
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from common.command_line import show_progress
from common.models import MODEL_FOLDERS
from evaluation.handler_runner import HandlerRunner, start_handler
from evaluation.number_sets import NumberSet, make_number_sets, make_other_sets
from evaluation.ood_scores import compute_binary_calibration_error
from handler.preprocessing import load_gray
from handler.protocol import NUMBER, READ_HEADER
from serving.config import ROOT
from training.data import load_raw_images
from training.plots import write_figure

SEED = 38
HEADERS = {READ_HEADER: NUMBER}
MISTAKES = 24  # numbers in the figure

PAGE = """# Numbers: evaluation

Whole numbers as the shipped models read them, `default` and `large`, through the handlers of their archives. The
numbers are composed of {data}; their gaps, sizes, slant, baseline and pen vary. "Touches" are connections between the
digits of a number. A number is right if all its digits are; an error counts as wrong. Written by `{command}`.

| set | numbers | right | large | right count | large | accepted | large | right of accepted | large | ECE | large |
|---|---|---|---|---|---|---|---|---|---|---|---|
{sets}

ECE is the calibration error of the numbers' confidence. Reading five separate digits takes {times}
as predicting one digit with the same model, in the median, in process and on one core.

## By length and touches

| set | | numbers | right | large |
|---|---|---|---|---|
{parts}

## What is no number

| set | images | not accepted | large |
|---|---|---|---|
{others}

## Mistakes

The wrong numbers with the highest confidence of the default model:

![Mistakes](numbers/mistakes.png)
"""


class Readings(NamedTuple):
    """A model's responses to the images of a set; an error response has no number and is not accepted."""

    number_set: NumberSet
    responses: list[dict[str, Any]]

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(np.equal(self.get_values("number", ""), self.number_set.labels))

    @property
    def accepted(self) -> NDArray[np.bool_]:
        return np.array(self.get_values("accepted", False))

    def get_values(self, field: str, missing: Any) -> list[Any]:
        return [response.get(field, missing) for response in self.responses]


def run_number_report(args: argparse.Namespace) -> int:
    """Write numbers_report.md and its figures, print its path; raise DataError if MNIST's part is missing."""
    out = args.out or ROOT / "docs"
    images, labels = load_raw_images(args.data, args.part)
    sets = [*make_number_sets(images, labels, SEED, args.numbers), *make_other_sets(images, SEED, args.numbers // 2)]
    columns, times = [], []
    for model in MODEL_FOLDERS:
        with start_handler(model) as handler:
            columns.append([Readings(part, _read_numbers(handler, part)) for part in sets])
            times.append(_measure_times(handler, sets))
    rows = list(zip(*columns, strict=True))
    numbers = [row for row in rows if row[0].number_set.labels[0]]
    command = f"python -m evaluation numbers --data {args.data} --part {args.part} --numbers {args.numbers}"
    (out / "numbers").mkdir(parents=True, exist_ok=True)
    _plot_mistakes([row[0] for row in numbers], command, out / "numbers" / "mistakes.png")
    _plot_example([row[0] for row in numbers], command, out / "numbers" / "example.png")
    page = PAGE.format(
        data=f"MNIST's {args.part} digits",
        command=command,
        times=" and ".join(f"{number:.1f} ms ({number / digit:.1f} times as long)" for digit, number in times),
        sets="\n".join(_format_row(row, "", zip(*map(_measure, row), strict=True)) for row in numbers),
        parts="\n".join(line for row in numbers for line in _format_parts(row)),
        others="\n".join(
            _format_row(row, "", [[1 - readings.accepted.mean() for readings in row]])
            for row in rows
            if row not in numbers
        ),
    )
    path = out / "numbers_report.md"
    path.write_text(page)
    print(path)
    return 0


def _read_numbers(handler: HandlerRunner, part: NumberSet) -> list[dict[str, Any]]:
    images = show_progress(part.images, part.name)
    return [response for image in images for _, response in handler.respond([image], HEADERS)]


def _measure_times(handler: HandlerRunner, sets: Sequence[NumberSet]) -> tuple[float, float]:
    """Return the median milliseconds of predicting a digit and of reading five separate ones, in turns."""
    images = {part.name: part.images for part in sets}
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    seconds = []
    for digit, number in zip(images["single digit"], images["separate"], strict=False):
        start = perf_counter()
        handler.respond([digit])
        middle = perf_counter()
        handler.respond([number], HEADERS)
        seconds.append((middle - start, perf_counter() - middle))
    digit_time, number_time = 1000 * np.median(seconds, axis=0)
    return float(digit_time), float(number_time)


def _measure(readings: Readings) -> tuple[float, ...]:
    """Return the shares right, with the right count, accepted, right of accepted, and the calibration error."""
    right, accepted = readings.right, readings.accepted
    counts = [len(number) for number in readings.get_values("number", "")]
    confidence = np.array(readings.get_values("confidence", 0.0))
    return (
        right.mean(),
        np.equal(counts, [*map(len, readings.number_set.labels)]).mean(),
        accepted.mean(),
        right[accepted].sum() / max(1, accepted.sum()),
        compute_binary_calibration_error(confidence, right),
    )


def _format_row(row: Sequence[Readings], part: str, columns: Iterable[Iterable[float]], count: int = 0) -> str:
    cells = [f"{share:.2%}" for shares in columns for share in shares]
    name = [row[0].number_set.name, part] if part else [row[0].number_set.name]
    return f"| {' | '.join([*name, f'{count or len(row[0].responses):,}', *cells])} |"


def _format_parts(row: Sequence[Readings]) -> Iterable[str]:
    """Yield a row per length and per number of touches, of sets with several."""
    number_set = row[0].number_set
    for unit, values in (("digits", [*map(len, number_set.labels)]), ("touches", number_set.touches)):
        for value in sorted(set(values)) if len(set(values)) > 1 else ():
            chosen = np.equal(values, value)
            yield _format_row(
                row, f"{value} {unit}", [[readings.right[chosen].mean() for readings in row]], chosen.sum()
            )


def _plot_example(results: Sequence[Readings], caption: str, path: Path) -> None:
    """Show the first photographed number with the boxes of its digits."""
    [readings] = [readings for readings in results if readings.number_set.name == "photographed"]
    with Image.open(BytesIO(readings.number_set.images[0])) as image:
        pixels = np.asarray(image.convert("RGB"))
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(pixels)
    response = readings.responses[0]
    for digit in response["digits"]:
        left, top, width, height = digit["box"]
        axes.add_patch(Rectangle((left, top), width, height, fill=False, color="tab:blue", linewidth=2))
        axes.text(left, top - 4, f"{digit['digit']} {digit['confidence']:.1%}", color="tab:blue", fontsize=8)
    verdict = "accepted" if response["accepted"] else "rejected"
    axes.set_title(f"{response['number']}, confidence {response['confidence']:.1%}, {verdict}")
    axes.axis("off")
    write_figure(path, figure, caption)


def _plot_mistakes(results: Sequence[Readings], caption: str, path: Path) -> None:
    mistakes = [
        (response["confidence"], image, label, response["number"])
        for readings in results
        for image, label, response in zip(
            readings.number_set.images, readings.number_set.labels, readings.responses, strict=True
        )
        if response.get("number", label) != label
    ]
    mistakes.sort(key=lambda mistake: -mistake[0])
    figure = Figure(figsize=(12, 1.3 * math.ceil(MISTAKES / 4)), layout="constrained")
    for axes, (confidence, image, label, number) in zip(
        figure.subplots(-(-MISTAKES // 4), 4).flat, mistakes, strict=False
    ):
        axes.imshow(load_gray(image)[0], cmap="gray")
        axes.set_title(f"{label} read as {number} ({confidence:.0%})", fontsize=9)
    for axes in figure.axes:
        axes.axis("off")
    write_figure(path, figure, caption)
