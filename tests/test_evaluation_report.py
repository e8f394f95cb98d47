"""evaluation/: the report is what the handler answers; its measures are those of others."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from common.command_line import run_command
from evaluation import outlier_sets as outliers
from evaluation.__main__ import parser
from evaluation.handler_runner import HandlerRunner, start_handler
from evaluation.ood_scores import compute_auroc, compute_calibration_error
from evaluation.sets import encode_png
from handler.calibration import read_calibration
from handler.preprocessing import frame, to_input
from serving.config import ROOT
from tests.images import digits
from training.export import RECORD
from training.model import load_model

BLANK = encode_png(np.full((28, 28), 200, np.uint8))


@pytest.fixture(scope="module")
def handler() -> HandlerRunner:
    with start_handler() as handler:
        return handler


def test_answers_are_the_models_own_and_blank_pictures_are_counted_as_refused(handler: HandlerRunner) -> None:
    pictures = [encode_png(grey) for grey in digits()[0][::250]]
    answers = handler.answers([*pictures, BLANK], "some")
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(to_input([frame(picture) for picture in pictures]))
    calibration = read_calibration(ROOT / RECORD)
    expected = calibration.compute_probabilities(logits)
    np.testing.assert_allclose(answers.scores[:-1], calibration.compute_scores(logits).numpy(), atol=1e-4)
    np.testing.assert_allclose(answers.probabilities[:-1], expected.numpy(), atol=1e-4)
    np.testing.assert_array_equal(answers.digits[:-1], expected.argmax(1).numpy())
    assert answers.refused.tolist() == [False] * 20 + [True]
    assert (answers.digits[-1], answers.confidence[-1], answers.accepted[-1]) == (-1, 0, False)


def test_any_other_refusal_stops_the_report(handler: HandlerRunner) -> None:
    with pytest.raises(ValueError, match="answered 400"):
        handler.answers([b"no picture"], "bad")


def test_auroc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(1, 1, 300), random.normal(0, 1, 200)
    truth = np.repeat((1, 0), (300, 200))
    assert compute_auroc(first, second) == pytest.approx(
        roc_auc_score(truth, np.concatenate((first, second))), abs=1e-6
    )


def test_calibration_error_is_zero_for_what_is_always_right_and_sure_and_large_for_what_is_wrong() -> None:
    labels = np.arange(10)
    assert compute_calibration_error(np.eye(10), labels) == pytest.approx(0)
    assert compute_calibration_error(np.eye(10), (labels + 1) % 10) == pytest.approx(1)


@pytest.fixture
def few_clothes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of Fashion-MNIST's 10,000 pictures its first, where it is installed."""
    path = tmp_path / "fashion.gz"
    if outliers.FASHION.exists():
        content = gzip.decompress(outliers.FASHION.read_bytes())
        path.write_bytes(gzip.compress(content[: outliers.FASHION_HEADER + 200 * 28 * 28]))
    monkeypatch.setattr(outliers, "FASHION", path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torchmetrics plots tensors
def test_report_has_every_set_and_its_pictures(
    few_clothes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", "--data", "mnist5k", "--part", "validation", "--photos", "30", "--outliers", "30"]
    assert run_command(parser(), [*words, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    names = ["clean", "inverted", "off-centre", "thin", "thick", "rotated", "blurred", "noisy", "photo-like"]
    names += ["scikit-learn digits", "letters", "blank", "noise", "texture"]
    names += ["Fashion-MNIST"] if few_clothes.exists() else []
    assert all(f"\n| {name} | " in text for name in names)
    shown = {part.split(")")[0] for part in text.split("](")[1:]}
    assert all((tmp_path / each).read_bytes().startswith(b"\x89PNG") for each in shown)
    assert len(shown) == 5
    assert ("left out: " in capsys.readouterr().out) != few_clothes.exists()
