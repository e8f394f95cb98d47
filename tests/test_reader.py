"""handler/reader.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from handler.preprocessing import Framed, examine, to_input
from handler.reader import CALL, Reader, grey_network
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


def test_answers_come_in_order_across_calls(reader: Reader) -> None:
    answers = reader.answers(framed(2 * CALL + 3))
    assert [answer["digit"] for answer in answers] == [index % 10 for index in range(2 * CALL + 3)]
    assert {answer["model_version"] for answer in answers} == {"2.5"}


def test_nothing_is_answered_with_nothing(reader: Reader) -> None:
    assert reader.answers([]) == []


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
