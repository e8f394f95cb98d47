"""python -m evaluation report | drift | examples | scores | original

python -m evaluation report --data mnist    docs/report.md; MNIST test 99.4%, about four minutes
"""

import argparse
import sys
from pathlib import Path

import torch

from evaluation import original
from evaluation.drift import drift
from evaluation.examples import write_examples
from evaluation.report import report
from evaluation.scores import compare
from serving.config import ROOT
from training.data import DataError
from training.export import write_whole

_DATA = "mnist, mnist5k (the released model was trained on most of it) or a torchvision root (default: %(default)s)"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "python -m evaluation", description="Measure the released model on every kind of set."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("report", help="write docs/report.md", description=_report.__doc__)
    command.add_argument("--data", default="mnist", help=_DATA)
    command.add_argument("--part", choices=("test", "validation"), default="test", help="(default: %(default)s)")
    command.add_argument("--photos", type=int, default=2000, help="photo-like pictures (default: %(default)s)")
    command.add_argument("--outliers", type=int, default=1000, help="pictures of a drawn set (default: %(default)s)")
    command.add_argument("--out", type=Path, default=ROOT / "docs", help="folder that gets report.md (default: docs)")
    command.set_defaults(run=_report)
    command = commands.add_parser("drift", help="write docs/drift.md", description=_drift.__doc__)
    command.add_argument("--data", default="mnist", help=_DATA)
    command.add_argument("--out", type=Path, default=ROOT / "docs", help="folder that gets drift.md (default: docs)")
    command.set_defaults(run=_drift)
    command = commands.add_parser("examples", help="write the page's examples", description=_examples.__doc__)
    command.set_defaults(run=_examples)
    command = commands.add_parser("scores", help="compare scores for rejection", description=_scores.__doc__)
    command.add_argument("--data", default="mnist", help=_DATA)
    command.set_defaults(run=_scores)
    command = commands.add_parser("original", help="train the network to compare with", description=_original.__doc__)
    command.add_argument("--data", default="mnist", help=_DATA)
    command.set_defaults(run=_original)
    return top


def _report(given: argparse.Namespace) -> None:
    """Ask the released model, through the handler, about digits in many forms and about what is none."""
    print(report(given.data, given.out, given.photos, given.outliers, given.part))


def _drift(given: argparse.Namespace) -> None:
    """Have the released model read every set, and tell how far each is from its reference."""
    print(drift(given.data, given.out))


def _examples(_: argparse.Namespace) -> None:
    """Write the pictures that the page to draw on offers, to serving/page/examples."""
    for path in write_examples():
        print(path)


def _scores(given: argparse.Namespace) -> None:
    """Print a table of scores that could tell digits from the rest, on validation pictures and outliers."""
    for line in compare(given.data):
        print(line)


def _original(given: argparse.Namespace) -> None:
    """Train by the original recipe on plainly resized pictures and write evaluation/original.pt."""
    model = original.train(given.data)
    write_whole(original.WEIGHTS, lambda file: torch.save(model.state_dict(), file))
    print(original.WEIGHTS)


def main() -> int:
    given = parser().parse_args()
    try:
        given.run(given)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
