"""Plot learning curves and confusion matrices, and write any figure as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from common.atomic import write_atomic
from training.export import to_bytes
from training.model import CLASSES
from training.model_metrics import Epoch, Evaluation
from training.torchvision_import import torchmetrics


def write_figure(path: Path, figure: Figure, caption: str = "") -> None:
    """Write the figure as PNG; the caption, in small print below it, says how it was made."""
    if caption:
        figure.supxlabel(caption, fontsize=8, color="dimgray")
    write_atomic(path, to_bytes(lambda file: figure.savefig(file, format="png", dpi=110)))


def plot_curves(history: Sequence[Epoch], held_out: str, title: str, path: Path, caption: str = "") -> None:
    """Plot loss and accuracy on training and held-out images over epochs."""
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    figure.suptitle(title)
    epochs = [epoch.number for epoch in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "acc"), strict=True):
        for part, label in (("train", "training"), ("held", held_out)):
            axes.plot(epochs, [getattr(epoch, f"{part}_{name}") for epoch in history], ".-", label=label)
        axes.set(xlabel="epoch", ylabel={"loss": "cross-entropy (nats)", "acc": "accuracy"}[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    write_figure(path, figure, caption)


def plot_confusion_matrix(evaluation: Evaluation, title: str, path: Path, caption: str = "") -> None:
    """Plot counts by true digit (row) and predicted digit (column), with recall per row; only errors are colored."""
    metrics = torchmetrics.functional.classification
    counts = metrics.multiclass_confusion_matrix(evaluation.logits, evaluation.labels, CLASSES).numpy()
    recall = metrics.multiclass_recall(evaluation.logits, evaluation.labels, CLASSES, average="none").tolist()
    errors = np.ma.masked_array(counts, np.eye(CLASSES, dtype=bool))
    figure = Figure(figsize=(7, 6.6), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("gainsboro")  # of the masked diagonal
    most = max(5, errors.max())
    axes.imshow(errors, cmap="Reds", vmin=0, vmax=most)
    for (row, column), count in np.ndenumerate(counts):
        color = "silver" if not count else "white" if row != column and count > 0.6 * most else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=10, color=color)
    axes.set_title(title)
    axes.set(xlabel="predicted digit", ylabel="true digit", xticks=range(CLASSES), yticks=range(CLASSES))
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(range(CLASSES), [f"{share:.2%}" for share in recall])
    beside.set_ylabel("recall")
    write_figure(path, figure, caption)
