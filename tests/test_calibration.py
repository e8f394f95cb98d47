"""training/calibrate.py and handler/calibration.py: confidence is calibrated."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from common.command_line import run_command
from handler.calibration import Calibration, read_calibration
from serving.config import ROOT
from tests.images import SMOKE
from training.__main__ import make_parser
from training.calibrate import REJECTED_RATIO, fit_calibration
from training.model_metrics import Evaluation


def draw_evaluation(temperature: float, count: int = 20_000) -> Evaluation:
    """Draw labels from the probabilities of logits; return them with the logits multiplied by `temperature`."""
    generator = torch.Generator().manual_seed(0)
    calibrated = torch.randn(count, 10, generator=generator) * 2
    labels = torch.multinomial(calibrated.softmax(1), 1, generator=generator).flatten()
    return Evaluation(calibrated * temperature, labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fitted_temperature_is_the_true_one(temperature: float) -> None:
    assert fit_calibration(draw_evaluation(temperature)).temperature == pytest.approx(temperature, rel=0.03)


def test_threshold_rejects_the_intended_ratio() -> None:
    evaluation = draw_evaluation(2.0)
    calibration = fit_calibration(evaluation)
    accepted = calibration.accept(evaluation.logits)
    assert 1 - float(accepted.mean()) == pytest.approx(REJECTED_RATIO, abs=1e-3)


def test_score_is_scipys_negative_entropy() -> None:
    logits = draw_evaluation(1.0, 100).logits
    probabilities = Calibration(2.0).compute_probabilities(logits)
    np.testing.assert_allclose(Calibration(2.0).compute_scores(logits), -entropy(probabilities, axis=1))


def test_model_json_without_calibration_changes_nothing_and_accepts_all(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    neutral = read_calibration(tmp_path / "model.json")
    logits = draw_evaluation(1.0, 100).logits
    np.testing.assert_allclose(neutral.compute_probabilities(logits), logits.double().softmax(1))
    assert neutral.accept(logits).all()
    warnings = [("faint",), ("faint", "several_marks")] * (len(logits) // 2)
    assert neutral.accept(logits, warnings).tolist() == [True, False] * (len(logits) // 2)
    (tmp_path / "model.json").write_text(json.dumps({"calibration": {"temperature": 2.0, "threshold": 0.9}}))
    assert read_calibration(tmp_path / "model.json") == Calibration(2.0, 0.9)


def test_command_fits_the_calibration_and_drift_baseline_keeps_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "model", tmp_path / "model")
    for digit, image in SMOKE.items():
        (tmp_path / "own" / str(digit)).mkdir(parents=True)
        for copy in range(2):
            (tmp_path / "own" / str(digit) / f"{copy}.png").write_bytes(image)
    words = ["--data", str(tmp_path / "own"), "--part", "all", "--out", str(tmp_path)]
    records = [json.loads((tmp_path / "model" / "model.json").read_text())]
    for command in ("calibrate", "drift-baseline"):
        assert run_command(make_parser(), [command, *words]) == 0
        records.append(json.loads((tmp_path / "model" / "model.json").read_text()))
    shipped, fitted, kept = records
    assert kept == fitted
    assert {key for key in shipped if shipped[key] != fitted[key]} == {"calibration", "reference", "smoke"}
