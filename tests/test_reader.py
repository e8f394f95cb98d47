"""handler/reader.py."""

import threading
from collections.abc import Iterator
from itertools import accumulate

import numpy as np
import pytest
import torch
from PIL import Image

from handler.preprocessing import Framed, examine, to_input
from handler.reader import CALL, FEW, Reader, grey_network
from serving.config import ROOT
from tests.pictures import SMOKE, digits, encode
from training.model import load_model

SCRIPTED = ROOT / "scripted_model.pt"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(SCRIPTED, ROOT / "model" / "model.json", "2.5")


def framed(count: int) -> list[Framed]:
    return [examine(SMOKE[index % 10]) for index in range(count)]


@pytest.mark.parametrize("count", [1, 7, 64])
def test_folded_channels_answer_as_the_scripted_model(count: int) -> None:
    """Whatever is on the picture: digits, and noise of every level."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 64, 64), np.uint8)
    drawn = [examine(encode(Image.fromarray(grey))).frame for grey in digits()[0][:count]]
    pictures = to_input([*noise, *drawn])
    with torch.inference_mode():
        expected = load_model(SCRIPTED)(pictures)
        logits = grey_network(SCRIPTED)(pictures[:, :1])
    assert logits.shape == (2 * count, 10)
    assert (logits - expected).abs().max() < 1e-4


def test_answers_come_in_order_whether_groups_are_large_or_small(reader: Reader) -> None:
    pictures, sizes = framed(4 * CALL), [CALL, 0, 1, CALL, FEW, FEW + 1]
    ends = list(accumulate(sizes))
    answers = reader.answers(pictures[end - size : end] for end, size in zip(ends, sizes, strict=True))
    assert [answer["digit"] for answer in answers] == [index % 10 for index in range(ends[-1])]
    assert {answer["model_version"] for answer in answers} == {"2.5"}


def test_a_large_group_is_answered_while_the_next_one_is_made(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    called = threading.Event()
    network = reader.network

    def noted(pictures: torch.Tensor) -> torch.Tensor:
        called.set()
        logits: torch.Tensor = network(pictures)
        return logits

    def groups() -> Iterator[list[Framed]]:
        yield framed(CALL)
        assert called.wait(10)
        yield framed(1)

    monkeypatch.setattr(reader, "network", noted)
    assert len(reader.answers(groups())) == CALL + 1


def test_what_fails_in_the_thread_fails_the_answers(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(_: torch.Tensor) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(reader, "network", out_of_memory)
    with pytest.raises(MemoryError):
        reader.answers([framed(CALL)])


def test_nothing_is_answered_with_nothing(reader: Reader) -> None:
    assert reader.answers([]) == reader.answers([[]]) == []


def test_warm_up_makes_a_call_of_every_size_that_batches_have(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    network = reader.network

    def counted(pictures: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pictures))
        logits: torch.Tensor = network(pictures)
        return logits

    monkeypatch.setattr(reader, "network", counted)
    reader.warm_up(framed(10), 16)
    assert {*range(1, 17), CALL} == set(sizes)
