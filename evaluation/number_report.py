"""Evaluate how the current models read numbers, through the handler; write docs/numbers_report.md and its figure."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
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
NOT_READ = {"number": "", "confidence": 0.0, "accepted": False}
ROWS, COLUMNS = 6, 4  # of the figure of mistakes

PAGE = """# Numbers: evaluation

Whole numbers as the shipped models read them, `default` and `large`, through the handlers of their archives. The
numbers are composed of {data}; their gaps, sizes, slant, baseline and pen vary. "Touches" are connections between the
digits of a number. A number is right if all its digits are; an error counts as wrong. Written by `{command}`.

| set | numbers | right | large | right count | large | accepted | large | right of accepted | large | ECE | large |
|---|---|---|---|---|---|---|---|---|---|---|---|
{sets}

ECE is the calibration error of the numbers' confidence. Median time to read five separate digits, in process and on one
core, and its ratio to that of predicting one digit with the same model: {times}.

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
    """A model's responses to the images of a set; an error response has the fields of NOT_READ."""

    number_set: NumberSet
    responses: list[dict[str, Any]]

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(np.equal(self.get_values("number"), self.number_set.labels))

    @property
    def accepted(self) -> NDArray[np.bool_]:
        return np.array(self.get_values("accepted"))

    def get_values(self, field: str) -> list[Any]:
        return [response[field] for response in self.responses]


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
        times=" and ".join(f"{number:.1f} ms ({number / digit:.1f})" for digit, number in times),
        sets="\n".join(map(_format_set, numbers)),
        parts="\n".join(line for row in numbers for line in _format_parts(row)),
        others="\n".join(map(_format_other, [row for row in rows if row not in numbers])),
    )
    path = out / "numbers_report.md"
    path.write_text(page)
    print(path)
    return 0


def _read_numbers(handler: HandlerRunner, part: NumberSet) -> list[dict[str, Any]]:
    images = show_progress(part.images, part.name)
    return [NOT_READ | response for image in images for _, response in handler.respond([image], HEADERS)]


def _measure_times(handler: HandlerRunner, sets: Sequence[NumberSet]) -> tuple[float, float]:
    """Return the median milliseconds of predicting a digit and of reading five separate ones, in turns."""
    images = {part.name: part.images for part in sets}
    seconds = []
    for digit, number in zip(images["single digit"], images["separate"], strict=False):
        start = perf_counter()
        handler.respond([digit])
        middle = perf_counter()
        handler.respond([number], HEADERS)
        seconds.append((middle - start, perf_counter() - middle))
    digit_time, number_time = 1000 * np.median(seconds, axis=0)
    return float(digit_time), float(number_time)


def _format_set(row: Sequence[Readings]) -> str:
    number_set, columns = row[0].number_set, zip(*map(_measure, row), strict=True)
    return _format_row([number_set.name, f"{len(number_set.labels):,}"], chain(*columns))


def _measure(readings: Readings) -> tuple[float, ...]:
    """Return the shares right, with the right count, accepted, right of accepted, and the calibration error."""
    right, accepted = readings.right, readings.accepted
    counts, right_counts = ([*map(len, n)] for n in (readings.get_values("number"), readings.number_set.labels))
    return (
        right.mean(),
        np.equal(counts, right_counts).mean(),
        accepted.mean(),
        right[accepted].sum() / max(1, accepted.sum()),
        compute_binary_calibration_error(np.array(readings.get_values("confidence")), right),
    )


def _format_parts(row: Sequence[Readings]) -> Iterator[str]:
    """Yield a row per length and per number of touches, of sets with several."""
    number_set = row[0].number_set
    for unit, values in (("digits", [*map(len, number_set.labels)]), ("touches", number_set.touches)):
        for value in sorted(set(values)) if len(set(values)) > 1 else ():
            chosen = np.equal(values, value)
            names = [number_set.name, f"{value} {unit}", f"{chosen.sum():,}"]
            yield _format_row(names, [readings.right[chosen].mean() for readings in row])


def _format_other(row: Sequence[Readings]) -> str:
    number_set = row[0].number_set
    names = [number_set.name, f"{len(number_set.labels):,}"]
    return _format_row(names, [1 - readings.accepted.mean() for readings in row])


def _format_row(names: list[str], shares: Iterable[float]) -> str:
    return f"| {' | '.join([*names, *(f'{share:.2%}' for share in shares)])} |"


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
        for number_set, responses in results
        for image, label, response in zip(number_set.images, number_set.labels, responses, strict=True)
        if response["number"] not in ("", label)
    ]
    mistakes.sort(key=lambda mistake: -mistake[0])
    figure = Figure(figsize=(12, 1.3 * ROWS), layout="constrained")
    subplots = figure.subplots(ROWS, COLUMNS).flat
    for axes, (confidence, image, label, number) in zip(subplots, mistakes, strict=False):
        axes.imshow(load_gray(image)[0], cmap="gray")
        axes.set_title(f"{label} read as {number} ({confidence:.0%})", fontsize=9)
    for axes in figure.axes:
        axes.axis("off")
    write_figure(path, figure, caption)
