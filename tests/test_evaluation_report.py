"""evaluation/: the report shows the handler's predictions; its metrics agree with other implementations."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from common.command_line import run_command
from common.models import MODEL_FOLDERS, RECORD
from evaluation import outlier_images
from evaluation.__main__ import make_parser
from evaluation.handler_runner import HandlerRunner, start_handler
from evaluation.ood_scores import (
    compute_auroc,
    compute_calibration_error,
    compute_risk_coverage,
)
from evaluation.sets import encode_png
from handler.calibration import read_calibration
from handler.preprocessing import frame, to_input
from serving.config import ROOT
from tests.images import digits
from training.model import load_model

BLANK = encode_png(np.full((28, 28), 200, np.uint8))


@pytest.fixture(scope="module")
def handler() -> HandlerRunner:
    with start_handler() as handler:
        return handler


def test_predictions_are_the_models_and_blank_images_are_counted(handler: HandlerRunner) -> None:
    images = [encode_png(gray) for gray in digits()[0][::250]]
    predictions = handler.predict([*images, BLANK], "some")
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(to_input([frame(image) for image in images]))
    calibration = read_calibration(ROOT / RECORD)
    expected = calibration.compute_probabilities(logits)
    np.testing.assert_allclose(predictions.scores[:-1], calibration.compute_scores(logits), atol=1e-4)
    np.testing.assert_allclose(predictions.probabilities[:-1], expected, atol=1e-4)
    np.testing.assert_array_equal(predictions.digits[:-1], expected.argmax(1))
    assert predictions.blank.tolist() == [False] * 20 + [True]
    assert (predictions.digits[-1], predictions.confidence[-1], predictions.accepted[-1]) == (-1, 0, False)


def test_any_other_error_stops_the_report(handler: HandlerRunner) -> None:
    with pytest.raises(ValueError, match="status 400"):
        handler.predict([b"no image"], "bad")


def test_auroc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(1, 1, 300), random.normal(0, 1, 200)
    truth = np.repeat((1, 0), (300, 200))
    assert compute_auroc(first, second) == pytest.approx(
        roc_auc_score(truth, np.concatenate((first, second))), abs=1e-6
    )


def test_calibration_error_is_zero_if_confident_and_correct_and_one_if_confident_and_wrong() -> None:
    labels = np.arange(10)
    assert compute_calibration_error(np.eye(10), labels) == pytest.approx(0)
    assert compute_calibration_error(np.eye(10), (labels + 1) % 10) == pytest.approx(1)


def test_risk_is_the_error_rate_of_what_a_threshold_accepts() -> None:
    random = np.random.default_rng(0)
    scores, correct = random.normal(size=50), random.random(50) < 0.8
    coverage, risk = compute_risk_coverage(scores, correct)
    for threshold in scores:
        accepted = scores >= threshold
        [row] = np.flatnonzero(np.isclose(coverage, accepted.mean()))
        assert risk[row] == pytest.approx(1 - correct[accepted].mean())


@pytest.fixture
def small_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace Fashion-MNIST's 10,000 images by the first 200, where it is installed."""
    path = tmp_path / "fashion.gz"
    if outlier_images.FASHION_MNIST.exists():
        content = gzip.decompress(outlier_images.FASHION_MNIST.read_bytes())
        path.write_bytes(gzip.compress(content[: outlier_images.IDX_HEADER_BYTES + 200 * 28 * 28]))
    monkeypatch.setattr(outlier_images, "FASHION_MNIST", path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torchmetrics plots tensors
def test_report_has_every_set_and_its_figures(
    small_fashion_mnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", "--data", "mnist5k", "--part", "validation", "--photos", "30", "--outliers", "30"]
    assert run_command(make_parser(), [*words, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    names = ["clean", "inverted", "off-centre", "thin", "thick", "rotated", "blurred", "noisy", "photo-like"]
    names += ["scikit-learn digits", "letters", "blank", "noise", "texture"]
    names += ["Fashion-MNIST"] if small_fashion_mnist.exists() else []
    assert all(f"\n| {name} | " in text for name in names)
    figures = {part.split(")")[0] for part in text.split("](")[1:]}
    assert all((tmp_path / path).read_bytes().startswith(b"\x89PNG") for path in figures)
    assert len(figures) == 7
    assert ("skipped: " in capsys.readouterr().out) != small_fashion_mnist.exists()


def test_own_images_are_evaluated_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, row in (("paint", 0), ("photo", 1)):
        for digit, offset in ((0, 0), (3, 1500)):
            folder = tmp_path / "own" / kind / str(digit)
            folder.mkdir(parents=True)
            (folder / "a.png").write_bytes(encode_png(digits()[0][offset + row]))
    (tmp_path / "own" / "paint" / "3" / "blank.png").write_bytes(BLANK)
    words = ["report", "--data", str(tmp_path / "own"), "--out", str(tmp_path / "mistakes")]
    assert run_command(make_parser(), words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        "| paint | 3 | 66.67% | 66.67% | 66.67% | 66.67% | 0 | 0 |",
        "| photo | 2 | 100.00% | 100.00% | 100.00% | 100.00% | 0 | 0 |",
        "| all | 5 | 80.00% | 80.00% | 80.00% | 80.00% | 0 | 0 |",
    ]
    for model in MODEL_FOLDERS:
        assert {path.name for path in (tmp_path / "mistakes" / model).iterdir()} == {"paint.png", "photo.png"}
    (tmp_path / "own" / "photo" / "0" / "b.png").write_bytes(b"no image")
    assert run_command(make_parser(), words) == 1
    assert "photo/0/b.png: " in capsys.readouterr().err
