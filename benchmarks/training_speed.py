"""python -m benchmarks.training_speed: training beside the original's way, in one run; ratio about 1.9.

The original's way: torchvision transforms for every picture in every epoch, in a DataLoader (num_workers=0),
the plain forward pass, Adam, loss and torchmetrics accuracy of every batch. Same network, same batch of 50, same
threads, same pictures (mnist5k).
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from multiprocessing import get_context

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import MNIST, VisionDataset

from handler.preprocessing import frame_grey
from training.data import load_data, raw_pictures
from training.measures import accuracy
from training.model import CLASSES, DigitCNN
from training.recipe import RECIPES, Config, configure
from training.train import Run

BATCH = 50
ORIGINAL = "original's way"


class Mnist5k(MNIST):  # type: ignore[misc]  # torchvision has no type hints
    """torchvision's own MNIST, each picture transformed anew when it is asked for, with mnist5k's pictures in it."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        VisionDataset.__init__(self, "", transform=transform)
        self.data, self.targets = (torch.from_numpy(part) for part in raw_pictures("mnist5k"))


def original_way() -> Iterator[None]:
    """A generator that takes one training step each time it is asked for the next."""
    steps = transforms.Compose([transforms.Resize((64, 64)), transforms.Grayscale(3), transforms.ToTensor()])
    torch.set_num_threads(Config().threads)
    data = Mnist5k(steps)
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
        material = run.material(0)
        for rows in torch.randperm(len(run.train)).split(BATCH)[:-1]:
            outputs.append(run.step(rows, material))
            yield
        losses, logits, labels = (torch.cat(column) for column in zip(*outputs, strict=True))
        losses.mean().item(), accuracy(logits, labels)


@cache
def way(name: str) -> Iterator[None]:
    """The training of that name, ready to take a step."""
    if name == ORIGINAL:
        return original_way()
    return our_way(Run(configure(name, epochs=1000), load_data("mnist5k"), torch.device("cpu")))


def pictures_a_second(name: str, steps: int) -> float:
    training = way(name)
    started = time.perf_counter()
    for _ in range(steps):
        next(training)
    return steps * BATCH / (time.perf_counter() - started)


def framing_seconds() -> float:
    """Of one 28x28 picture."""
    greys, _ = raw_pictures("mnist5k")
    started = time.perf_counter()
    for grey in greys:
        frame_grey(grey)
    return (time.perf_counter() - started) / len(greys)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.training_speed", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="interleaved; the medians count (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of 50 pictures, in a repeat (default: %(default)s)")
    given = parser.parse_args()
    names = [ORIGINAL, *RECIPES]
    with ExitStack() as open_:
        # A process each, as each would run by itself: they share no memory allocator. They take turns.
        alone = {name: open_.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for name in names}

        def measure(steps: int) -> dict[str, float]:
            return {name: pool.submit(pictures_a_second, name, steps).result() for name, pool in alone.items()}

        measure(20)  # warm-up
        speeds = [measure(given.steps) for _ in range(given.repeats)]
    print(f"pictures a second, median of {given.repeats}, {Config().threads} threads")
    for name in names:
        speed = statistics.median(repeat[name] for repeat in speeds)
        ratio = statistics.median(repeat[name] / repeat[ORIGINAL] for repeat in speeds)
        print(f"  {name if name == ORIGINAL else f'this project, recipe {name}':30} {speed:6.0f}  {ratio:.2f} x")
    print(f"framing, once for the whole data set: {framing_seconds() * 1e6:.0f} microseconds a picture")


if __name__ == "__main__":
    main()
