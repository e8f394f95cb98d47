"""What a model is worth: loss and accuracy of an epoch, logits and labels of a set of pictures."""

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
    """Mean cross-entropy and accuracy (0..1) of one epoch, on the training and on the held-out pictures."""

    number: int
    train_loss: float
    train_acc: float
    held_loss: float
    held_acc: float

    def line(self, held_out: str) -> str:
        held = "Test" if held_out == "test" else "Val"
        return (
            f"Epoch : {self.number} | Train_loss : {self.train_loss:.3f} | Train_acc : {self.train_acc:.0%}"
            f" | {held}_loss : {self.held_loss:.3f} | {held}_acc : {self.held_acc:.0%}"
        )


@dataclass(frozen=True)
class Evaluation:
    """What a model gives on N pictures: logits [N,10] and labels [N], on the CPU."""

    logits: Tensor
    labels: Tensor

    @classmethod
    def of_probabilities(cls, probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> "Evaluation":
        """Of probabilities [N,10] and labels [N]; their logarithms are logits."""
        return cls(torch.from_numpy(probabilities).log(), torch.from_numpy(labels))

    @property
    def loss(self) -> float:
        return float(F.cross_entropy(self.logits, self.labels))

    @property
    def accuracy(self) -> float:
        return accuracy(self.logits, self.labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the N pictures whose largest logit is the label's, by torchmetrics."""
    multiclass_accuracy = torchmetrics.functional.classification.multiclass_accuracy
    return float(multiclass_accuracy(logits, labels, CLASSES, average="micro"))


def evaluate(model: nn.Module, pictures: LabeledImages) -> Evaluation:
    """The model's logits on the pictures, in evaluation mode; the mode it came in is put back."""
    return Evaluation(compute_logits(model, torch.from_numpy(pictures.frames)), torch.from_numpy(pictures.labels))
