"""Evaluate the current model on a folder of own images: subfolders of digits, or of kinds with subfolders of digits."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.figures import plot_mistakes
from evaluation.handler_runner import start_handler
from evaluation.results import evaluate_set
from evaluation.sets import ImageSet
from handler.preprocessing import ImageError, load_gray
from training.data import DataError


def find_kinds(folder: Path) -> list[Path]:
    """Return those of the folder and its subfolders that contain folders 0 to 9."""
    return [path for path in (folder, *sorted(folder.glob("*/"))) if any(path.glob("[0-9]/"))]


def report_own_images(kinds: list[Path], out: Path) -> int:
    """Print a Markdown table of the kinds; draw their mistakes, with frames, in `out`; raise DataError."""
    sets = [load_kind(kind) for kind in kinds]
    out.mkdir(parents=True, exist_ok=True)
    print("| kind | images | right | accepted | right of accepted | wrong of accepted |\n|---|---|---|---|---|---|")
    with start_handler() as handler:
        results = [evaluate_set(handler, image_set) for image_set in sets]
    for result in results:
        print(_format_row(result.name, result.correct, result.predictions.accepted))
        plot_mistakes(result, f"python -m evaluation report --data {kinds[0].parent}", out / f"{result.name}.png")
    rows = [(result.correct, result.predictions.accepted) for result in results]
    print(_format_row("all", *map(np.concatenate, zip(*rows, strict=True))))
    return 0


def load_kind(folder: Path) -> ImageSet:
    """Load the images of a kind, labeled by their folders; raise DataError for one that is unreadable."""
    paths = [path for path in sorted(folder.glob("[0-9]/*")) if path.is_file() and not path.name.startswith(".")]
    images, labels = [path.read_bytes() for path in paths], [int(path.parent.name) for path in paths]
    for path, image in zip(paths, images, strict=True):
        try:
            load_gray(image)
        except ImageError as error:
            raise DataError(f"{path}: {error.message}") from error
    return ImageSet(folder.name, images, np.array(labels))


def _format_row(name: str, correct: NDArray[np.bool_], accepted: NDArray[np.bool_]) -> str:
    wrong = int((accepted & ~correct).sum())
    ratios = correct.mean(), accepted.mean(), 1 - wrong / max(1, accepted.sum())
    return f"| {name} | {len(correct):,} | {' | '.join(map('{:.2%}'.format, ratios))} | {wrong} |"
