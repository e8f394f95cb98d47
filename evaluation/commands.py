"""The commands of evaluation, a function for each; each returns the exit code."""

from argparse import Namespace
from io import BytesIO

import torch

from common.atomic import write_atomic
from evaluation import drift as drifting
from evaluation import original as baseline
from evaluation import report as reporting
from evaluation.examples import write_examples
from evaluation.scores import compare


def report(given: Namespace) -> int:
    print(reporting.report(given.data, given.out, given.photos, given.outliers, given.part))
    return 0


def drift(given: Namespace) -> int:
    print(drifting.drift(given.data, given.out))
    return 0


def examples(_: Namespace) -> int:
    for path in write_examples():
        print(path)
    return 0


def scores(given: Namespace) -> int:
    for line in compare(given.data):
        print(line)
    return 0


def original(given: Namespace) -> int:
    """Write evaluation/original.pt."""
    weights = BytesIO()
    torch.save(baseline.train(given.data).state_dict(), weights)
    write_atomic(baseline.WEIGHTS, weights.getvalue())
    print(baseline.WEIGHTS)
    return 0
