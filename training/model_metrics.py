"""Metrics of a model: loss and accuracy of an epoch, logits and labels of a set of images."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from numpy.typing import NDArray
from torch import Tensor, nn

from training.augmented_data import compute_logits
from training.data import LabeledImages
from training.model import CLASSES
from training.torchvision_import import torchmetrics


@dataclass(frozen=True)
class Epoch:
    """Mean cross-entropy and accuracy (0..1) of an epoch, on training and held-out images."""

    number: int
    train_loss: float
    train_acc: float
    held_loss: float
    held_acc: float

    def format_line(self, held_out: str) -> str:
        """Return the line that training prints; `held_out` is test or validation."""
        held = "Test" if held_out == "test" else "Val"
        return (
            f"Epoch : {self.number} | Train_loss : {self.train_loss:.3f} | Train_acc : {self.train_acc:.0%}"
            f" | {held}_loss : {self.held_loss:.3f} | {held}_acc : {self.held_acc:.0%}"
        )


@dataclass(frozen=True)
class Evaluation:
    """Logits [N,10] and labels [N] of N images, on the CPU."""

    logits: Tensor
    labels: Tensor

    @classmethod
    def from_probabilities(cls, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> "Evaluation":
        """Create an evaluation from probabilities [N,10] and labels [N]; logarithms of probabilities are logits."""
        return cls(torch.from_numpy(probabilities).log(), torch.from_numpy(labels))

    @property
    def loss(self) -> float:
        return float(F.cross_entropy(self.logits, self.labels))

    @property
    def accuracy(self) -> float:
        return compute_accuracy(self.logits, self.labels)


def compute_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the accuracy of logits [N,10], 0..1."""
    multiclass_accuracy = torchmetrics.functional.classification.multiclass_accuracy
    return float(multiclass_accuracy(logits, labels, CLASSES, average="micro"))


def evaluate_model(model: nn.Module, images: LabeledImages) -> Evaluation:
    """Return the model's logits on the images, in evaluation mode; restore its mode."""
    return Evaluation(compute_logits(model, torch.from_numpy(images.frames)), torch.from_numpy(images.labels))
