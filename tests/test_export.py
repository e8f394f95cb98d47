"""training/export.py: the files of a run, and model.json of the shipped model."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from common.command_line import run_command
from common.models import MODEL_FOLDERS, ONNX, RECORD
from handler.calibration import Calibration
from handler.networks import load_network
from serving.config import ROOT
from tests.datasets import mnist5k
from training.__main__ import make_parser
from training.export import LIBRARIES, MODEL, ONNX_OPSET, PARAMETERS, SCRIPTED, export_model, make_record
from training.model import DigitCNN, load_model
from training.recipe import RECIPES, make_config
from training.train import Trainer


def test_all_three_model_files_give_equal_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_model(DigitCNN(), {}, tmp_path)
    images = torch.rand(5, 3, 64, 64)
    logits = [load_model(tmp_path / name)(images) for name in (MODEL, PARAMETERS, SCRIPTED)]
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits[0], logits[2])


def test_files_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        export_model(DigitCNN(), {}, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_record_contains_everything_that_determines_the_run() -> None:
    data = mnist5k()
    trainer = Trainer(make_config("default", seed=7), data)
    written = json.loads(json.dumps(make_record(trainer, data, {}, Calibration(1.5, 0.7), {"pictures": 1})))
    assert written["run_id"] == trainer.run_id
    assert (written["parameters"], written["seed"], written["recipe"]["lr"]) == (20_180, 7, trainer.config.lr)
    assert written["data"]["sha256"] == data.sha256
    assert written["libraries"]["torch"] == torch.__version__
    assert written["calibration"] == {"temperature": 1.5, "threshold": 0.7}
    assert written["reference"] == {"pictures": 1}
    assert not {"calibration", "reference"} & make_record(trainer, data, {}, None).keys()
    assert [len(written["smoke"][str(digit)]) for digit in range(10)] == [10] * 10
    assert {"version", "architecture", "epochs", "metrics"} <= set(written)


@pytest.mark.parametrize("model", MODEL_FOLDERS)
def test_command_writes_the_onnx_model_of_a_model_that_has_none(model: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / MODEL_FOLDERS[model] / "model", tmp_path / "model", ignore=shutil.ignore_patterns("*.onnx"))
    assert run_command(make_parser(), ["export-onnx", "--model", model, "--out", str(tmp_path)]) == 0
    images = np.random.default_rng(0).random((5, 1, 64, 64), np.float32)
    logits = [load_network(folder / ONNX)(images) for folder in (ROOT / MODEL_FOLDERS[model], tmp_path)]
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", [ROOT / folder / ONNX for folder in MODEL_FOLDERS.values()])
def test_onnx_model_has_the_opset_a_dynamic_batch_and_no_paths(path: Path) -> None:
    exported = onnx.load(path)
    assert [opset.version for opset in exported.opset_import] == [ONNX_OPSET]
    [images] = exported.graph.input
    assert [size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim][::2] == ["batch", 64]
    assert b"export.py" not in path.read_bytes()


@pytest.mark.parametrize(("model", "accuracy"), [("default", 0.993), ("large", 0.996)])
def test_shipped_weights_have_the_models_recipe_on_mnist(model: str, accuracy: float) -> None:
    """The default model had 0.994 on MNIST's test set before it learned other handwriting styles (model card)."""
    shipped = json.loads((ROOT / MODEL_FOLDERS[model] / RECORD).read_text())
    assert shipped["recipe"] == asdict(RECIPES[model])
    assert (shipped["data"]["name"], shipped["data"]["training_pictures"]) == ("mnist", 54_999)
    texts = [(ROOT / name).read_text() for name in ("requirements.txt", "requirements-reader.txt")]
    pins = dict(line.split("==") for line in "\n".join(texts).splitlines() if "==" in line)
    libraries = {name: version.split("+")[0] for name, version in shipped["libraries"].items()}
    assert all(pins[name] == libraries[name] for name in LIBRARIES)
    assert shipped["metrics"]["test"]["accuracy"] >= accuracy
    assert set(shipped["calibration"]) == {"temperature", "threshold"}
