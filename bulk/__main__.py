"""Command line of bulk prediction; `make score` installs what it needs.

python -m bulk score images/ predictions/
python -m bulk score 's3://forms/2026-*.parquet' predictions/ --id-column form --number
"""

import argparse
import sys

from common.command_line import add_command, run_command
from common.models import MODEL_FOLDERS


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bulk", description="Predict images by the million, on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = (
        "predict all images of Parquet files or of a folder; write a Parquet file of predictions for every input file"
    )
    score = add_command(commands, "score", "bulk.score:run_score", text)
    score.set_defaults(hint_if_stopped="stopped; the same command continues after the finished files")
    score.add_argument(
        "input",
        metavar="INPUT",
        help="folder, file or quoted pattern of Parquet files, or a folder of "
        "images; a path or a URL of pyarrow's file systems, such as s3://",
    )
    score.add_argument("output", metavar="OUTPUT", help="new folder, or one that this command began; a path or a URL")
    score.add_argument("--number", action="store_true", help="read whole numbers instead of single digits")
    score.add_argument("--model", choices=tuple(MODEL_FOLDERS), default="default", help="(default: %(default)s)")
    text = "column of the encoded images: binary, or a struct with a field bytes (default: %(default)s)"
    score.add_argument("--image-column", metavar="NAME", default="image", help=text)
    score.add_argument("--id-column", metavar="NAME", default="id", help="written first (default: %(default)s)")
    text = "address of a running Ray cluster (default: RAY_ADDRESS, else a Ray of its own that ends with the command)"
    score.add_argument("--address", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(make_parser()))
