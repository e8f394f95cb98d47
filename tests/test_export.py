"""training/export.py: what a run writes, whole or not at all."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from handler.confidence import Calibration
from serving.config import ROOT
from tests.datasets import mnist5k
from training.export import LIBRARIES, MODEL, PARAMETERS, RECORD, SCRIPTED, SMOKE, export, record
from training.model import DigitCNN, load_model
from training.predict import MakePrediction
from training.recipe import RECIPES, configure
from training.train import Trainer

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def test_the_three_models_are_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(DigitCNN(), {}, tmp_path)
    pictures = torch.rand(5, 3, 64, 64)
    logits = [load_model(tmp_path / name)(pictures) for name in (MODEL, PARAMETERS, SCRIPTED)]
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits[0], logits[2])


def test_record_names_all_that_determines_the_run() -> None:
    data = mnist5k()
    trainer = Trainer(configure("default", seed=7), data)
    written = json.loads(json.dumps(record(trainer, data, {}, Calibration(1.5, 0.7), {"pictures": 1})))
    assert written["run_id"] == trainer.run_id
    assert (written["parameters"], written["seed"], written["recipe"]["lr"]) == (20_180, 7, trainer.config.lr)
    assert written["data"]["sha256"] == data.sha256
    assert written["libraries"]["torch"] == torch.__version__
    assert written["calibration"] == {"temperature": 1.5, "threshold": 0.7}
    assert written["reference"] == {"pictures": 1}
    assert not {"calibration", "reference"} & record(trainer, data, {}, None).keys()
    assert [len(written["smoke"][str(digit)]) for digit in range(10)] == [10] * 10
    assert {"version", "architecture", "epochs", "metrics"} <= set(written)


@pytest.mark.parametrize("path", [MODEL, PARAMETERS, SCRIPTED, RECORD])
def test_no_file_is_left_half_written(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / path
    export(DigitCNN(), {}, tmp_path)
    before = target.read_bytes()

    def replace(file: Path, to: Path) -> Path:
        if to == target:
            raise OSError("no space left on device")
        return Path(shutil.move(file, to))

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="no space"):
        export(DigitCNN(), {"epochs": 1}, tmp_path)
    assert target.read_bytes() == before
    assert not list(target.parent.glob("*.tmp"))


def test_released_weights_are_the_default_recipes_on_mnist() -> None:
    """They were trained for 60 epochs; the default is 40 since training version 4."""
    released = json.loads((ROOT / RECORD).read_text())
    assert released["recipe"] == asdict(replace(RECIPES["default"], epochs=60))
    assert (released["data"]["name"], released["data"]["training_pictures"]) == ("mnist", 54_999)
    assert released["data"]["sha256"] == MNIST_SHA256
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    libraries = {name: version.split("+")[0] for name, version in released["libraries"].items()}
    assert all(pins[name] == libraries[name] for name in LIBRARIES)
    assert released["metrics"]["test"]["accuracy"] >= 0.994
    assert set(released["calibration"]) == {"temperature", "threshold"}


def test_the_released_record_says_what_the_smoke_pictures_give() -> None:
    """`register` compares a version's answers with it."""
    expected = json.loads((ROOT / RECORD).read_text())["smoke"]
    for digit in range(10):
        prediction = MakePrediction(SMOKE / f"{digit}.png")
        assert prediction.show_prediction().item() == digit
        assert prediction.probabilities.tolist() == pytest.approx(expected[str(digit)], abs=1e-6)
