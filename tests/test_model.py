"""training/model.py: the specified architecture, and loading that runs no pickled code."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from common.models import MODEL_FOLDERS
from handler.preprocessing import frame, to_input
from serving.config import ROOT
from tests.images import SMOKE
from training.export import MODEL, PARAMETERS, SCRIPTED
from training.model import BatchNormDigitCNN, DigitCNN, LargeDigitCNN, ModelError, fold_batch_norms, load_model


def test_model_has_the_specified_20180_parameters() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in DigitCNN().named_parameters()}
    assert shapes == {
        "conv1.weight": (10, 3, 5, 5),
        "conv1.bias": (10,),
        "conv2.weight": (10, 10, 5, 5),
        "conv2.bias": (10,),
        "linear.weight": (10, 1690),
        "linear.bias": (10,),
    }


def test_large_model_has_338002_parameters() -> None:
    assert sum(parameter.numel() for parameter in LargeDigitCNN().parameters()) == 338_002


def test_forward_equals_the_specified_order_of_layers() -> None:
    """The oracle is the specification, layer by layer, as nn.Sequential."""
    model = DigitCNN().eval()
    layers = torch.nn.Sequential(
        model.conv1, torch.nn.MaxPool2d(2), torch.nn.ReLU(), model.conv2, model.dropout, torch.nn.MaxPool2d(2),
        torch.nn.ReLU(), torch.nn.Flatten(), model.linear,
    )  # fmt: skip
    images = torch.rand(4, 3, 64, 64)
    torch.testing.assert_close(model(images), layers(images))


def test_folding_batch_norms_keeps_architecture_and_logits() -> None:
    """The oracle is the network with batch norms, after a few batches of running statistics."""
    torch.manual_seed(0)
    model = BatchNormDigitCNN(dropout=0.2)
    images = torch.rand(20, 1, 64, 64).expand(-1, 3, -1, -1) ** 3
    with torch.no_grad():
        for norm in (model.norm1, model.norm2):
            torch.nn.init.normal_(norm.bias)
        for _ in range(20):
            model(images)
    folded = fold_batch_norms(model)
    assert model.training
    assert not folded.training
    assert {name: part.shape for name, part in folded.state_dict().items()} == {
        name: part.shape for name, part in DigitCNN().state_dict().items()
    }
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model.eval()(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model", MODEL_FOLDERS)
def test_all_three_shipped_files_load_and_agree(model: str) -> None:
    inputs = to_input([frame(SMOKE[digit]) for digit in range(10)])
    with torch.inference_mode():
        logits = [load_model(ROOT / MODEL_FOLDERS[model] / name)(inputs) for name in (MODEL, PARAMETERS, SCRIPTED)]
    for others in logits[1:]:
        torch.testing.assert_close(logits[0], others)
    assert logits[0].argmax(1).tolist() == list(range(10))


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_malicious_pickle_is_an_error_and_does_not_run(tmp_path: Path) -> None:
    model = DigitCNN()
    model.extra = Malicious(tmp_path / "ran")  # type: ignore[assignment]
    torch.save(model, tmp_path / "whole.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    for name in ("whole.pt", "bare.pt"):
        with pytest.raises(ModelError, match=name):
            load_model(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\3\4 half a zip"])
def test_file_that_is_not_a_model_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    with pytest.raises(ModelError, match="no such file"):
        load_model(path)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.pt: not a whole model, state dict or scripted model"):
        load_model(path)
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)  # of another network
    with pytest.raises(ModelError, match=r"broken\.pt"):
        load_model(path)
