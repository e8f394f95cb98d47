"""The commands of evaluation, a function for each; each returns the exit code."""

from argparse import Namespace

import torch

from common.atomic import write_atomic
from evaluation import drift_report as drifting
from evaluation import original as baseline
from evaluation import report as reporting
from training.export import to_bytes


def report(given: Namespace) -> int:
    print(reporting.report(given.data, given.out, given.photos, given.outliers, given.part))
    return 0


def drift(given: Namespace) -> int:
    print(drifting.drift(given.data, given.out))
    return 0


def original(given: Namespace) -> int:
    """Write evaluation/original.pt."""
    model = baseline.train(given.data)
    write_atomic(baseline.WEIGHTS, to_bytes(lambda file: torch.save(model.state_dict(), file)))
    print(baseline.WEIGHTS)
    return 0
