"""python -m evaluation report

python -m evaluation report --data mnist    docs/report.md; MNIST test 99.4%, about four minutes
"""

import argparse
import sys
from pathlib import Path

from common.command_line import add_command, run_command
from serving.config import ROOT

_DATA = "mnist, mnist5k (the released model was trained on most of it) or a torchvision root (default: %(default)s)"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "python -m evaluation", description="Measure the released model on every kind of set."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    text = "write docs/report.md: the released model on digits in many forms and on non-digits"
    report = add_command(commands, "report", "evaluation.report:run_report", text)
    report.set_defaults(hint_if_stopped="stopped")
    report.add_argument("--data", default="mnist", help=_DATA)
    report.add_argument("--part", choices=("test", "validation"), default="test", help="(default: %(default)s)")
    report.add_argument("--photos", type=int, default=2000, help="photo-like pictures (default: %(default)s)")
    report.add_argument("--outliers", type=int, default=1000, help="pictures of a drawn set (default: %(default)s)")
    report.add_argument("--out", type=Path, default=ROOT / "docs", help="folder that gets report.md (default: docs)")
    return top


if __name__ == "__main__":
    sys.exit(run_command(parser()))
