"""Drift of every set of pictures from the released model's reference, as the supervisor of a server would tell it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from tabulate import tabulate

from common.atomic import write_atomic
from evaluation.asked import Asked, asked
from evaluation.outlier_sets import MissingData
from evaluation.report import SEED
from evaluation.sets import Sample, digit_sets, fashion_set, outlier_sets, scikit_learn_digits
from handler.drift import FEATURES, WINDOW, DriftWindow, count_features
from handler.metrics import Metrics
from serving.config import ROOT
from training.data import raw_pictures
from training.export import RECORD

PAGE = Path("drift.md")
Shares = dict[str, dict[str, float]]
Row = tuple[str, list[float]]
DRAWN = 1000  # photos, and pictures of each set that is drawn, of which some are blank

TEXT = """# Drift

What `digits_drift_psi` says of each set of pictures, by the handler's own counters and the supervisor's own windows
([how](reference.md#drift)). Written by `python -m evaluation drift`; the digit sets are made of {data}, the
reference is of {reference:,} validation pictures. Over 0.25 is a shift.

Of MNIST's own pictures all at once, and the windows of {window}: shuffled, as callers mix, and in their order, in which
a window holds a few writers alone, each with a pen and a hand of their own.

{own}

Of every other set, the first {window} pictures that were not refused:

{others}
"""


def drift(source: str, folder: Path) -> str:
    """Writes drift.md into the folder, and returns its text; raises DataError."""
    reference = json.loads((ROOT / RECORD).read_text())["reference"]
    greys, labels = raw_pictures(source)
    sets = chain(digit_sets(greys, labels, SEED, DRAWN), [scikit_learn_digits()], _fashion(), outlier_sets(SEED, DRAWN))
    with asked() as handler:
        own = _own(handler, next(sets), reference["shares"])
        others = [(each.name, windows(handler, each, reference["shares"], most=1)) for each in sets]
    text = TEXT.format(
        data=f"MNIST's {len(greys):,} test pictures" if source != "mnist5k" else "mnist5k",
        reference=reference["pictures"], window=WINDOW, own=_table(own),
        others=_table([(name, told[0]) for name, told in others if told]),
    )  # fmt: skip
    write_atomic(folder / PAGE, text.encode())
    return text


def _own(handler: Asked, sample: Sample, shares: Shares) -> list[Row]:
    """Of all the set's pictures, and of the windows of WINDOW in two orders."""
    rows = [("all", windows(handler, sample, shares, least=len(sample.pictures))[0])]
    order = np.random.default_rng(SEED).permutation(len(sample.pictures))
    shuffled = replace(sample, pictures=[sample.pictures[row] for row in order])
    for name, each in (("shuffled", shuffled), ("in order", sample)):
        told = windows(handler, each, shares)
        rows.append((f"{name}: median of {len(told)} windows", np.median(told, axis=0).tolist()))
        rows.append((f"{name}: largest", np.max(told, axis=0).tolist()))
    return rows


def _fashion() -> Iterator[Sample]:
    try:
        yield fashion_set()
    except MissingData:
        return


def windows(handler: Asked, sample: Sample, shares: Shares, least: int = WINDOW, most: int = 1000) -> list[list[float]]:
    """The index of each feature, of one window of at least so many pictures after the other, at most so many."""
    handler.handler.metrics = metrics = Metrics("0")
    first, told = count_features(metrics.registry.collect())["0"], list[list[float]]()
    for start in range(0, len(sample.pictures), handler.batch):
        handler.answers(sample.pictures[start : start + handler.batch], sample.name)
        window = DriftWindow()
        for each in (first, count_features(metrics.registry.collect())["0"]):
            window.add(each)
        if window.images >= least:
            found = window.compute_drift(shares)
            told.append([found[feature] for feature in FEATURES])
            first = window.looks[-1]
        if len(told) == most:
            break
    return told


def _table(rows: list[Row]) -> str:
    cells = [[name, *(f"**{each:.2f}**" if each > 0.25 else f"{each:.2f}" for each in values)] for name, values in rows]
    return tabulate(cells, ["", *FEATURES], tablefmt="github", disable_numparse=True)
