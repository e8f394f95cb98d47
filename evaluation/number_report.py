"""Evaluate how the current models read numbers, through the handler; write docs/numbers_report.md and its figure."""

import argparse
import math
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from common.models import MODEL_FOLDERS
from evaluation.handler_runner import start_handler
from evaluation.number_sets import NumberSet, make_number_sets, make_other_sets
from handler.preprocessing import load_gray
from serving.config import ROOT
from training.data import load_raw_images
from training.plots import write_figure

SEED = 38
MISTAKES = 24  # numbers in the figure

PAGE = """# Numbers: evaluation

Whole numbers as the shipped models read them, `default` and `large`, through the handlers of their archives. The
numbers are composed of {data}; their gaps, sizes, slant, baseline and pen vary. "Touches" are connections between the
digits of a number. A number is right if all its digits are; an error counts as wrong. Written by `{command}`.

| set | numbers | right | large | right count | large | accepted | large | right of accepted | large |
|---|---|---|---|---|---|---|---|---|---|
{sets}

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
    """Responses to the images of a set; an error response has no number and is not accepted."""

    number_set: NumberSet
    responses: list[dict[str, Any]]

    @property
    def right(self) -> list[bool]:
        pairs = zip(self.responses, self.number_set.labels, strict=True)
        return [response.get("number") == label for response, label in pairs]

    @property
    def accepted(self) -> list[bool]:
        return [response.get("accepted", False) for response in self.responses]

    @property
    def right_count(self) -> list[bool]:
        pairs = zip(self.responses, self.number_set.labels, strict=True)
        return [len(response.get("number", "")) == len(label) for response, label in pairs]

    @property
    def right_of_accepted(self) -> list[bool]:
        return [right for right, accepted in zip(self.right, self.accepted, strict=True) if accepted]


def run_number_report(args: argparse.Namespace) -> int:
    """Write numbers_report.md and its figure, print its path; raise DataError if MNIST's part is missing."""
    out = args.out or ROOT / "docs"
    images, labels = load_raw_images(args.data, args.part)
    sets = [*make_number_sets(images, labels, SEED, args.numbers), *make_other_sets(images, SEED, args.numbers // 2)]
    columns = []
    for model in MODEL_FOLDERS:
        with start_handler(model) as handler:
            columns.append([Readings(part, handler.read_numbers(part.images, part.name)) for part in sets])
    rows = list(zip(*columns, strict=True))
    numbers = [row for row in rows if row[0].number_set.labels[0]]
    command = f"python -m evaluation numbers --data {args.data} --part {args.part} --numbers {args.numbers}"
    (out / "numbers").mkdir(parents=True, exist_ok=True)
    _plot_mistakes([row[0] for row in numbers], command, out / "numbers" / "mistakes.png")
    _plot_example([row[0] for row in numbers], command, out / "numbers" / "example.png")
    page = PAGE.format(
        data=f"MNIST's {args.part} digits",
        command=command,
        sets="\n".join(map(_format_set, numbers)),
        parts="\n".join(line for row in numbers for line in _format_parts(row)),
        others="\n".join(_format_other(row) for row in rows if row not in numbers),
    )
    path = out / "numbers_report.md"
    path.write_text(page)
    print(path)
    return 0


def _format_set(row: Sequence[Readings]) -> str:
    columns = ("right", "right_count", "accepted", "right_of_accepted")
    cells = [_format_share(getattr(readings, column)) for column in columns for readings in row]
    return f"| {' | '.join([row[0].number_set.name, f'{len(row[0].responses):,}', *cells])} |"


def _format_parts(row: Sequence[Readings]) -> Iterable[str]:
    """Yield a row per length and per number of touches, of sets with several."""
    number_set = row[0].number_set
    for unit, values in (("digits", [*map(len, number_set.labels)]), ("touches", number_set.touches)):
        for value in sorted(set(values)) if len(set(values)) > 1 else ():
            chosen = [place for place, other in enumerate(values) if other == value]
            shares = [_format_share([readings.right[place] for place in chosen]) for readings in row]
            yield f"| {' | '.join([number_set.name, f'{value} {unit}', f'{len(chosen):,}', *shares])} |"


def _format_other(row: Sequence[Readings]) -> str:
    shares = [_format_share([not accepted for accepted in readings.accepted]) for readings in row]
    return f"| {' | '.join([row[0].number_set.name, f'{len(row[0].responses):,}', *shares])} |"


def _format_share(values: Sequence[bool]) -> str:
    return f"{sum(values) / len(values):.2%}" if values else "-"


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
