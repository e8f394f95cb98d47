"""training/fine_tuning.py: training from a model's weights learns own images and does not forget MNIST."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.command_line import run_command
from common.models import RECORD
from serving.config import ROOT
from tests.datasets import write_folder
from tests.images import digits
from training import data as training_data
from training.__main__ import make_parser
from training.data import DataSet, load_data
from training.export import MODEL, PARAMETERS, SCRIPTED
from training.fine_tuning import load_initial_model, mix_in_mnist
from training.model import DigitCNN, load_model
from training.model_metrics import evaluate_model
from training.recipe import FINE_TUNING, ConfigError
from training.runs import SHIPPED_RUNS, RunError
from training.train import Trainer, fit, make_run_id

QUICK = ("--epochs", "1", "--no-augment", "--outlier-ratio", "0", "--threads", "1")


def run_training(*argv: object) -> int:
    return run_command(make_parser(), list(map(str, argv)))


@pytest.fixture
def small_mnist5k(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mix in a hundred images instead of 5,000."""
    grays, labels = digits()
    monkeypatch.setattr(training_data, "_read_mnist5k", lambda: (grays[::50], labels[::50]))


@pytest.mark.usefixtures("small_mnist5k")
def test_own_and_mnist_images_are_balanced_and_split_separately(tmp_path: Path) -> None:
    own, mnist = load_data(str(write_folder(tmp_path / "own"))), load_data("mnist5k")
    mixed = mix_in_mnist(own)
    assert (len(own.train), len(mnist.train), len(mixed.train), len(mixed.validation)) == (20, 90, 2 * 90, 10 + 10)
    counts = np.unique([frame.tobytes() for frame in mixed.train.frames[:90]], return_counts=True)[1]
    assert (len(counts), counts.min(), counts.max()) == (20, 4, 5)
    np.testing.assert_array_equal(mixed.train.frames[90:], mnist.train.frames)
    validation = np.concatenate([own.validation.frames, mnist.validation.frames])
    np.testing.assert_array_equal(mixed.validation.frames, validation)
    np.testing.assert_array_equal(mixed.validation_parts["own"].labels, own.validation.labels)
    assert mixed.sha256 == own.sha256 | mnist.sha256


@pytest.mark.usefixtures("small_mnist5k")
def test_fine_tuned_model_has_a_complete_record_with_its_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_folder(tmp_path / "own")
    options = ("train", "--from", "released", "--out", tmp_path, *QUICK)
    assert run_training(*options, "--data", own) == 0
    output = capsys.readouterr()
    assert "warning" not in output.err
    assert "on 180 images of own+mnist5k" in output.out
    record, shipped = (json.loads((root / RECORD).read_text()) for root in (tmp_path, ROOT))
    assert shipped.keys() - {"metrics", "teacher"} <= record.keys()
    assert record["fine_tuned_from"] == {
        "run_id": SHIPPED_RUNS["default"],
        "sha256": load_initial_model(str(ROOT / SCRIPTED), tmp_path).sha256,
    }
    assert record["recipe"]["recipe"] == "fine-tuning"
    parts = {part: metrics["pictures"] for part, metrics in record["metrics"].items()}
    assert parts == {"validation": 20, "validation_own": 10, "validation_mnist5k": 10}
    assert record["reference"]["pictures"] == 20
    first = record["run_id"]
    assert run_training(*options[:2], first, *options[3:], "--data", own) == 0
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["fine_tuned_from"]["run_id"] == first != record["run_id"]


@pytest.mark.usefixtures("small_mnist5k")
def test_fine_tuning_starts_from_the_named_weights(tmp_path: Path) -> None:
    """All file formats of a model have the same hash; other weights give another run id."""
    data = mix_in_mnist(load_data(str(write_folder(tmp_path / "own"))))
    config = replace(FINE_TUNING, epochs=1, lr=1e-9, augment=False, outlier_ratio=0.0, threads=1)
    starts = [
        load_initial_model(name, tmp_path) for name in ("released", *(str(ROOT / path) for path in (MODEL, SCRIPTED)))
    ]
    assert len({start.sha256 for start in starts}) == 1
    trained = fit(config, data, report=lambda _: None, start=starts[0]).trained_model.state_dict()
    for name, weights in load_model(ROOT / PARAMETERS).state_dict().items():
        torch.testing.assert_close(trained[name], weights, atol=1e-6, rtol=0)
    torch.save(DigitCNN().state_dict(), tmp_path / "other.pt")
    chosen = [None, starts[0], load_initial_model(str(tmp_path / "other.pt"), tmp_path)]
    ids = {make_run_id(config, data, start) for start in chosen}
    assert len(ids) == 3
    assert Trainer(config, data, start=starts[1]).run_id in ids
    with pytest.raises(ConfigError, match="not a large model"):
        Trainer(replace(config, model="large"), data, start=starts[0])
    with pytest.raises(RunError, match="nothing: no such run of the default model in "):
        load_initial_model("nothing", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "released", "--recipe", "default"), "--from released: its batch norms are folded"),
        (("--from", "released", "--batch-norm"), "--from released: its batch norms are folded"),
        (("--from", "released", "--teacher", "large"), "--from released: the initial model is the teacher"),
        (("--recipe", "fine-tuning"), "--recipe fine-tuning: needs initial weights"),
        (("--from", str(ROOT / "README.md")), "README.md: not a whole model, state dict or scripted model"),
    ],
)
def test_invalid_fine_tuning_options_are_errors(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_training("train", "--data", write_folder(tmp_path / "own"), "--out", tmp_path, *options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fine_tuning_learns_rotated_digits_and_does_not_forget_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 rotated images; mixed-in, own and held-out images are disjoint."""
    grays, labels = digits()
    own, held, mixed_in = np.split(np.random.default_rng(1).permutation(len(grays)), [300, 1000])

    def make_data(rows: np.ndarray, turns: int) -> DataSet:
        frames = training_data._frame_images(np.ascontiguousarray(np.rot90(grays[rows], turns, (1, 2))), labels[rows])
        return DataSet("own", frames, None, {"folder": "own"})

    monkeypatch.setattr(training_data, "_read_mnist5k", lambda: (grays[mixed_in], labels[mixed_in]))
    start = load_initial_model("released", ROOT)
    config = replace(FINE_TUNING, epochs=6, augmentation_passes=2)
    model = fit(config, mix_in_mnist(make_data(own, 1)), report=lambda _: None, start=start).trained_model
    held_out = [make_data(held, turns).all_training for turns in (1, 0)]
    (own_before, mnist_before), (own_after, mnist_after) = (
        [evaluate_model(network, images).accuracy for images in held_out] for network in (start.model, model)
    )
    assert own_before < 0.4
    assert own_after > 0.6
    assert mnist_after >= mnist_before - 0.005
