"""The pictures of training and evaluation, as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.atomic import write_atomic
from training.export import to_bytes
from training.model import CLASSES
from training.torchvision_import import torchmetrics

if TYPE_CHECKING:
    from training.model_metrics import Epoch, Evaluation


def write_figure(path: Path, figure: Figure) -> None:
    write_atomic(path, to_bytes(lambda file: figure.savefig(file, format="png", dpi=110)))


def curves(history: Sequence["Epoch"], held_out: str, path: Path) -> None:
    """Loss and accuracy of every epoch, on the training and on the held-out pictures."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    epochs = [epoch.number for epoch in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "acc"), strict=True):
        axes.plot(epochs, [getattr(epoch, f"train_{name}") for epoch in history], label="training")
        axes.plot(epochs, [getattr(epoch, f"held_{name}") for epoch in history], label=held_out)
        axes.set_xlabel("epoch")
        axes.set_ylabel({"loss": "cross-entropy", "acc": "accuracy"}[name])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    write_figure(path, figure)


def confusion_matrix(measures: "Evaluation", title: str, path: Path) -> None:
    """Rows are the true digits, columns the model's."""
    matrix = torchmetrics.classification.MulticlassConfusionMatrix(CLASSES)
    matrix.update(measures.logits, measures.labels)
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axes = figure.subplots()
    matrix.plot(ax=axes, cmap="Blues")
    for number in axes.texts:
        number.set_fontsize(9)  # four digits fit into a field
    axes.set_title(title)
    axes.set_xlabel("predicted digit")
    axes.set_ylabel("true digit")
    write_figure(path, figure)
