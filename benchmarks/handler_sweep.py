"""python -m benchmarks.handler_sweep: what each part of the handler's speed brings, in process, on one core.

Each row takes one part away; turns are interleaved, figures are medians, ratios are the medians of the turns'. A
minute; docs/performance/handler.md has the table.
"""

import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from unittest.mock import patch

import torch
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.in_process import Limit, keep_to_one_core
from benchmarks.machine import machine
from benchmarks.page import written
from handler import digit_handler, preprocessing, reader
from handler.preprocessing import Grey, ImageError, to_input
from handler.seen import Seen
from serving.config import ROOT

PAGE = ROOT / "docs" / "performance" / "handler.md"
SHIPPED = "as shipped"
BATCHES = (1, 16, 256)
TURNS = 9

TEXT = """# What makes the handler fast

Written by `make sweep` on {cpu}, one core of {cores}, commit {commit}, {date}.

Pictures a second in process, 28x28 PNGs, framing and answers included, by the size of batches; each row takes away or
changes one thing. Medians of {turns} interleaved turns; x is beside what ships.

{table}
"""

Variant = Callable[[Limit], AbstractContextManager[object]]


@contextmanager
def by_pillow(_: Limit) -> Iterator[None]:
    """Every picture is read by Pillow, under the time limit."""
    with ExitStack() as patched:
        for module in (digit_handler, preprocessing):
            patched.enter_context(patch.object(module, "plain_png", lambda _: None))
        yield


@contextmanager
def one_by_one(_: Limit) -> Iterator[None]:
    """Each picture is read and framed before the next is looked at."""
    read, framed = digit_handler._read, digit_handler._framed

    def both(picture: bytes | ImageError, until: float) -> Seen:
        return framed(read(picture, until), until)

    with patch.object(digit_handler, "_read", both), patch.object(digit_handler, "_framed", lambda seen, _: seen):
        yield


def with_network(make: Callable[[Limit], Callable[[torch.Tensor], torch.Tensor]]) -> Variant:
    """Another network in the place of the handler's; made once, for its first calls are slow."""
    made = cache(make)

    def variant(limit: Limit) -> AbstractContextManager[object]:
        return patch.object(limit.handler.reader, "network", made(limit))

    return variant


def scripted() -> torch.jit.ScriptModule:
    model: torch.jit.ScriptModule = torch.jit.load(str(ROOT / "scripted_model.pt"), map_location="cpu").eval()
    return model


def three_channels(_: Limit) -> Callable[[torch.Tensor], torch.Tensor]:
    network = torch.jit.optimize_for_inference(torch.jit.freeze(scripted()))
    return lambda grey: network(grey.expand(-1, 3, -1, -1))


def as_saved(_: Limit) -> Callable[[torch.Tensor], torch.Tensor]:
    network = scripted()
    return lambda grey: network(grey.expand(-1, 3, -1, -1))


def channels_last(_: Limit) -> Callable[[torch.Tensor], torch.Tensor]:
    model = reader.folded(scripted())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    network = torch.jit.freeze(model)
    return lambda grey: network(grey.contiguous(memory_format=torch.channels_last))


@contextmanager
def _buffer_kept(_: Limit) -> Iterator[None]:
    """One tensor for all inputs, filled anew."""
    kept = torch.empty(256, 1, 64, 64)

    def filled(frames: list[Grey]) -> torch.Tensor:
        grey = kept[: len(frames)]
        for row, frame in zip(grey, frames, strict=True):
            row.copy_(torch.from_numpy(frame))
        return grey.div_(255)

    with patch.object(reader, "to_input", filled):
        yield


@contextmanager
def _tensor_each(_: Limit) -> Iterator[None]:
    """A tensor for each picture, joined."""
    with patch.object(reader, "to_input", lambda frames: torch.cat([to_input([frame]) for frame in frames])):
        yield


def calls_of(size: int) -> Variant:
    return lambda _: patch.object(digit_handler, "CALL", size)


VARIANTS: dict[str, Variant] = {
    SHIPPED: lambda _: nullcontext(),
    "Pillow for plain PNGs too": by_pillow,
    "one picture after the other": one_by_one,
    "three channels instead of one": with_network(three_channels),
    "three channels, neither frozen nor optimised": with_network(as_saved),
    "channels last": with_network(channels_last),
    "one buffer for all inputs": _buffer_kept,
    "a tensor a picture": _tensor_each,
    "calls of 16 pictures at most": calls_of(16),
    "calls of 64 pictures at most": calls_of(64),
    "calls of 256 pictures at most": calls_of(256),
}


def measure() -> dict[str, dict[int, list[float]]]:
    """Name -> size of batches -> pictures a second, turn by turn."""
    speeds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in BATCHES} for name in VARIANTS}
    limits = {size: Limit(size) for size in BATCHES}
    for turn in tqdm(range(TURNS + 1), unit="turn", disable=None):
        for name, variant in VARIANTS.items():
            for size, limit in limits.items():
                with variant(limit):
                    speed = limit.pictures_a_second()
                if turn:  # the first warms up
                    speeds[name][size].append(speed)
    return speeds


def table(speeds: dict[str, dict[int, list[float]]]) -> str:
    head = ("", *(f"batches of {size}" for size in BATCHES))
    rows = [(name, *(_cell(of[size], speeds[SHIPPED][size]) for size in BATCHES)) for name, of in speeds.items()]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * len(BATCHES)))


def _cell(speeds: list[float], shipped: list[float]) -> str:
    ratio = statistics.median(one / other for one, other in zip(speeds, shipped, strict=True))
    return f"{statistics.median(speeds):,.0f} ({ratio:.2f}x)"


def text() -> str:
    told = machine()
    keep_to_one_core()
    return TEXT.format(**told, turns=TURNS, table=table(measure()))


if __name__ == "__main__":
    sys.exit(written(PAGE, text))
