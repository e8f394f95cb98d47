"""training/calibration.py and handler/confidence.py: confidence means what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from handler.calibration import SCORE_TEMPERATURE_SCALE, Calibration, read_calibration
from training.calibrate import REJECTED_RATIO, fit_calibration
from training.model_metrics import Evaluation


def drawn(temperature: float, count: int = 20_000) -> Evaluation:
    """Logits that are `temperature` times too sure of labels drawn from their own probabilities."""
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(count, 10, generator=generator) * 2
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator).flatten()
    return Evaluation(honest * temperature, labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    assert fit_calibration(drawn(temperature)).temperature == pytest.approx(temperature, rel=0.03)


def test_the_threshold_refuses_the_share_it_is_meant_to() -> None:
    measures = drawn(2.0)
    calibration = fit_calibration(measures)
    accepted = calibration.accept(measures.logits)
    assert 1 - float(accepted.double().mean()) == pytest.approx(REJECTED_RATIO, abs=1e-3)


def test_score_is_scipys_entropy_of_the_softer_probabilities() -> None:
    logits = drawn(1.0, 100).logits
    softer = Calibration(2.0 * SCORE_TEMPERATURE_SCALE).compute_probabilities(logits).numpy()
    np.testing.assert_allclose(Calibration(2.0).compute_scores(logits), -entropy(softer, axis=1))


def test_a_record_gives_its_calibration_or_one_that_changes_nothing_and_accepts_all(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    neutral = read_calibration(tmp_path / "model.json")
    logits = drawn(1.0, 100).logits
    torch.testing.assert_close(neutral.compute_probabilities(logits), logits.double().softmax(1))
    assert neutral.accept(logits).all()
    (tmp_path / "model.json").write_text(json.dumps({"calibration": {"temperature": 2.0, "threshold": 0.9}}))
    assert read_calibration(tmp_path / "model.json") == Calibration(2.0, 0.9)
