"""The commands of evaluation, a function for each; each returns the exit code."""

from argparse import Namespace

from evaluation import report as reporting


def report(given: Namespace) -> int:
    print(reporting.report(given.data, given.out, given.photos, given.outliers, given.part))
    return 0
