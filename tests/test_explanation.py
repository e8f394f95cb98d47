"""Tests of handler/explanation.py through the handler: integrated gradients of real digits."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handler.calibration import read_calibration
from handler.digit_handler import DigitHandler
from handler.explanation import compute_attribution
from handler.preprocessing import FramedImage, frame_with_warnings, to_input
from serving.config import ROOT
from tests.handler_calls import EXPLAIN, call_handler
from tests.images import SMOKE, digits, encode
from training.model import load_model


def test_attribution_sums_to_the_difference_in_log_probability(handler: DigitHandler, model_dir: Path) -> None:
    """Check the property that defines integrated gradients: the difference between the frame and an empty one."""
    [(_, explanation)] = call_handler(handler, model_dir, [{"body": SMOKE[5], "target": b"3"}], [EXPLAIN])
    assert list(explanation) == ["digit", "target", "attribution", "framed"]
    framed = np.array(explanation["framed"], np.uint8)
    assert (framed == frame_with_warnings(SMOKE[5]).frame).all()
    values = np.array(explanation["attribution"])
    assert values.shape == (64, 64)
    temperature = read_calibration(model_dir / "model.json").temperature
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(to_input([framed, np.zeros_like(framed)])).double()
    image, empty = (logits / temperature).log_softmax(1)[:, 3].tolist()
    assert values.sum() == pytest.approx(image - empty, rel=0.05)
    assert not values[framed == 0].any()


MIN_INTENSITY = 64  # of 255; the foreground without its soft edge
DRAWS = 20  # of random foreground pixels


@pytest.mark.slow
def test_attributed_pixels_matter_to_the_prediction(handler: DigitHandler) -> None:
    """On 100 digits, attribution lies on the foreground, and its top tenth matters more than a random tenth.

    The brightest tenth does not pass: measured, it matters more on only 73 of 100.
    """
    random = np.random.default_rng(0)
    frames = [
        frame_with_warnings(encode(Image.fromarray(digits()[0][index]))).frame
        for index in random.permutation(5000)[:100]
    ]
    shares, successes = [], 0
    for frame in frames:
        [prediction] = _predict_frames(handler, [frame])
        digit, confidence = prediction["digit"], prediction["confidence"]
        values = compute_attribution(handler.scripted, handler.reader.classifier.calibration, frame, digit)
        shares.append(np.abs(values)[frame >= MIN_INTENSITY].sum() / np.abs(values).sum())
        foreground = np.flatnonzero(frame >= MIN_INTENSITY)
        tenth = len(foreground) // 10
        top = foreground[np.argsort(-values.flat[foreground])[:tenth]]
        chosen = [top, *(random.permutation(foreground)[:tenth] for _ in range(DRAWS))]
        confidences = _compute_confidences(handler, [_occlude(frame, pixels) for pixels in chosen], digit)
        drop, *random_drops = [confidence - after for after in confidences]
        successes += bool(drop > np.mean(random_drops))
    print(f"on foreground: minimum {min(shares):.3f}, median {np.median(shares):.3f}; {successes} of 100 beat chance")
    assert min(shares) >= 0.8
    assert successes >= 90


def _occlude(frame: Any, pixels: Any) -> Any:
    occluded = frame.copy()
    occluded.flat[pixels] = 0
    return occluded


def _compute_confidences(handler: DigitHandler, frames: list[Any], digit: int) -> list[float]:
    return [prediction["probabilities"][digit] for prediction in _predict_frames(handler, frames)]


def _predict_frames(handler: DigitHandler, frames: list[Any]) -> list[dict[str, Any]]:
    return handler.reader.classifier.predict([FramedImage(frame, ()) for frame in frames])


def test_failed_explanation_stays_in_its_row(
    handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_memory_error(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("handler.digit_handler.compute_attribution", raise_memory_error)
    (failed, error), (status, _) = call_handler(
        handler, model_dir, [{"body": SMOKE[1]}, {"body": SMOKE[1]}], [EXPLAIN, {}]
    )
    assert (failed, status) == (500, 200)
    assert error["message"] == "the image could not be processed: MemoryError"


@pytest.mark.slow
def test_captum_is_imported_by_the_first_explanation(model_dir: Path) -> None:
    code = f"""
import sys
import torch
from pathlib import Path
from handler.digit_handler import DigitHandler
from tests.handler_calls import *
from tests.images import SMOKE
handler = DigitHandler()
handler.initialize(make_context(Path({str(model_dir)!r}), 0))
call_handler(handler, Path({str(model_dir)!r}), [{{"body": SMOKE[1]}}])
assert "captum" not in sys.modules and "matplotlib" not in sys.modules
call_handler(handler, Path({str(model_dir)!r}), [{{"body": SMOKE[1]}}], [EXPLAIN])
assert "captum" in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
