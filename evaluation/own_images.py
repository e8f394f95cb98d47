"""Evaluate the current models on own images: a folder with subfolders of digits, or of kinds with such subfolders."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.models import MODEL_FOLDERS
from evaluation.figures import plot_mistakes
from evaluation.handler_runner import start_handler
from evaluation.results import evaluate_set
from evaluation.sets import ImageSet
from handler.preprocessing import ImageError, load_gray
from training.data import DataError

Outcomes = tuple[NDArray[np.bool_], ...]  # correct and accepted [N]


def find_kinds(folder: Path) -> list[Path]:
    """Return those of the folder and its subfolders that contain folders 0 to 9."""
    return [path for path in (folder, *sorted(folder.glob("*/"))) if any(path.glob("[0-9]/"))]


def report_own_images(kinds: list[Path], out: Path) -> int:
    """Print a Markdown table of models and kinds; draw the mistakes, with frames, in `out`; raise DataError."""
    sets = [load_kind(kind) for kind in kinds]
    columns: list[list[Outcomes]] = []
    for model in MODEL_FOLDERS:
        with start_handler(model) as handler:
            results = [evaluate_set(handler, image_set) for image_set in sets]
        (out / model).mkdir(parents=True, exist_ok=True)
        for result in results:
            caption = f"{model}; python -m evaluation report --data {kinds[0].parent}"
            plot_mistakes(result, caption, out / model / f"{result.name}.png")
        outcomes = [(result.correct, result.predictions.accepted) for result in results]
        columns.append([*outcomes, tuple(map(np.concatenate, zip(*outcomes, strict=True)))])
    print("| kind | images | right | large | accepted | large | wrong of accepted | large |")
    print("|---|---|---|---|---|---|---|---|")
    for name, *row in zip([kind.name for kind in kinds] + ["all"], *columns, strict=True):
        print(_format_row(name, row))
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


def _format_row(kind: str, row: list[Outcomes]) -> str:
    ratios = [correct.mean() for correct, _ in row] + [accepted.mean() for _, accepted in row]
    wrong = [str((accepted & ~correct).sum()) for correct, accepted in row]
    cells = [kind, f"{len(row[0][0]):,}", *map("{:.2%}".format, ratios), *wrong]
    return f"| {' | '.join(cells)} |"
