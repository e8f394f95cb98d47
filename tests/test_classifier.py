"""Tests of handler/classifier.py."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from common.models import MODEL_FOLDERS, ONNX, RECORD
from handler.classifier import MODEL_BATCH_SIZE, Classifier
from handler.networks import load_network
from handler.preprocessing import FramedImage, frame_with_warnings, to_gray_input, to_input
from serving.config import ROOT
from tests.images import SMOKE, digits, encode
from training.export import SCRIPTED
from training.model import load_model


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(ROOT / SCRIPTED, ROOT / RECORD, "2.5")


def frame_smoke_images(count: int) -> list[FramedImage]:
    return [frame_with_warnings(SMOKE[index % 10]) for index in range(count)]


@pytest.mark.parametrize("model", MODEL_FOLDERS)
@pytest.mark.parametrize("count", [1, 7, 64])
def test_loaded_networks_give_the_scripted_models_logits(count: int, model: str) -> None:
    """Test digits, and noise of every gray level."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 64, 64), np.uint8)
    frames = [frame_with_warnings(encode(Image.fromarray(gray))).frame for gray in digits()[0][:count]]
    folder = ROOT / MODEL_FOLDERS[model]
    with torch.inference_mode():
        expected = load_model(folder / SCRIPTED)(to_input([*noise, *frames])).numpy()
    for path in (folder / SCRIPTED, folder / ONNX):
        logits = load_network(path)(to_gray_input([*noise, *frames]))
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_warm_up_calls_the_model_with_every_batch_size(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    network = classifier.network

    def count_images(images: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(images))
        return network(images)

    monkeypatch.setattr(classifier, "network", count_images)
    classifier.warm_up(frame_smoke_images(10), 16)
    assert {*range(1, 17), MODEL_BATCH_SIZE} == set(sizes)


def test_image_with_several_marks_is_rejected_whatever_its_score(classifier: Classifier) -> None:
    frame = frame_with_warnings(SMOKE[7]).frame
    marked = [FramedImage(frame, warnings) for warnings in ((), ("faint",), ("inverted", "several_marks"))]
    assert [prediction["accepted"] for prediction in classifier.predict(marked)] == [True, True, False]
