"""python -m benchmarks.training_speed: training beside the original's way, in one run.

The original's way: torchvision transforms for every picture in every epoch, in a DataLoader (num_workers=0),
the plain forward pass, Adam, loss and torchmetrics accuracy of every batch. Same network, same batch of 50, same
threads, pictures of mnist5k, each time in a new process, since two starts of the same training differ more than two
turns of one. What a recipe takes to change and frame its pictures is counted in, as far as its epochs share it, and so
is learning from its teacher, but not what the teacher takes to learn and to answer. Only digits are counted; a recipe's
pictures of no digit are work beside them. docs/performance/training.md has the table.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import MNIST, VisionDataset
from tqdm import tqdm

from benchmarks.machine import machine
from benchmarks.page import written
from handler.preprocessing import frame_grey
from serving.config import ROOT
from training.data import load_data, raw_pictures
from training.measures import accuracy
from training.model import CLASSES, DigitCNN
from training.recipe import RECIPES, Config, configure
from training.teacher import Teacher
from training.train import Run, make_rounds

PAGE = ROOT / "docs" / "performance" / "training.md"
BATCH = 50
WARM_UP, STEPS = 60, 200  # of a turn
TURNS = 7
BAR = 2  # times the original's way, recipe `default` with all it has
ORIGINAL = "original's way"

TEXT = """# Training beside the original's way

Written by `make bench` on {cpu}, {threads} threads, commit {commit}, {date}.

The original's way resizes each picture in each epoch, by a `DataLoader` with `num_workers=0`, without augmentation.
Ours is with all that the recipe has, framing included, but without what the teacher takes to learn and to answer.
Batches of {batch} from `mnist5k`; medians of {turns} interleaved turns of {steps} steps, each in a new process; x is
beside the original's way, turn by turn. The bar for recipe `default` is {bar:g} x: {verdict}.

{table}

Framing alone, once for the whole data set: {framing:.0f} microseconds a picture.
"""


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


def way(name: str) -> Iterator[None]:
    """The training of that name, ready to take a step."""
    if name == ORIGINAL:
        return original_way()
    config = configure(name, epochs=1000)
    teacher = Teacher() if config.teacher else None  # what it teaches matters not, nor how long it learnt
    return our_way(Run(config, load_data("mnist5k"), torch.device("cpu"), teacher=teacher))


def step_seconds(training: Iterator[None], steps: int) -> float:
    """Of one picture in a step."""
    started = time.perf_counter()
    for _ in range(steps):
        next(training)
    return (time.perf_counter() - started) / steps / BATCH


def making_seconds(name: str) -> float:
    """Of a picture's share in an epoch's pictures; a round of digits serves several epochs, a teacher's among them."""
    config = RECIPES[name]
    if not config.augment:
        return 0
    pictures = load_data("mnist5k").train
    rounds = make_rounds(config, pictures, torch.device("cpu"))
    digits, outliers = (_seconds_of(make) for make in (rounds.digits, rounds.outliers))
    an_epoch = digits / (config.epochs + config.teacher) + outliers / config.epochs
    return an_epoch * config.rounds / len(pictures)


def _seconds_of(make: Callable[[int], Tensor]) -> float:
    started = time.perf_counter()
    make(0)
    return time.perf_counter() - started


def seconds(name: str, steps: int) -> tuple[float, float]:
    """Of one picture: in a step, and in what is made ready before; both once warm."""
    training = way(name)
    step_seconds(training, WARM_UP)
    try:
        return step_seconds(training, steps), making_seconds(name) if name in RECIPES else 0
    finally:
        get_reusable_executor().shutdown()  # joblib's idle processes would keep this one from ending


def in_a_process(name: str, steps: int) -> tuple[float, float]:
    """The same, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(seconds, name, steps).result()


def framing_seconds() -> float:
    """Of one 28x28 picture."""
    greys, _ = raw_pictures("mnist5k")
    started = time.perf_counter()
    for grey in greys:
        frame_grey(grey)
    return (time.perf_counter() - started) / len(greys)


def measure() -> list[dict[str, tuple[float, float]]]:
    """Turn by turn, of each way."""
    turns = tqdm(range(TURNS), unit="turn", disable=None)
    return [{name: in_a_process(name, STEPS) for name in (ORIGINAL, *RECIPES)} for _ in turns]


def table(turns: list[dict[str, tuple[float, float]]]) -> str:
    head = ("", "pictures a second", "x", "microseconds a picture in a step", "to change and frame it")
    rows = [_row(name, turns) for name in turns[0]]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * 4))


def _row(name: str, turns: list[dict[str, tuple[float, float]]]) -> tuple[str, ...]:
    taken = statistics.median(sum(turn[name]) for turn in turns)
    parts = [statistics.median(part) for part in zip(*(turn[name] for turn in turns), strict=True)]
    title = name if name == ORIGINAL else f"recipe `{name}`"
    return title, f"{1 / taken:,.0f}", f"{ratio(name, turns):.2f}", *(f"{part * 1e6:.0f}" for part in parts)


def ratio(name: str, turns: list[dict[str, tuple[float, float]]]) -> float:
    """Times the original's way, the median of the turns."""
    return statistics.median(sum(turn[ORIGINAL]) / sum(turn[name]) for turn in turns)


def text() -> str:
    told, turns = machine(), measure()
    verdict = "met" if ratio("default", turns) >= BAR else "**not met**"
    framing = 1e6 * framing_seconds()
    own = {"threads": Config().threads, "batch": BATCH, "turns": TURNS, "steps": STEPS, "bar": BAR}
    return TEXT.format(**told, **own, verdict=verdict, table=table(turns), framing=framing)


if __name__ == "__main__":
    sys.exit(written(PAGE, text))
