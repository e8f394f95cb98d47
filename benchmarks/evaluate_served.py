"""Measure accuracy through the served API, and its agreement with the training code on the same PNGs."""

import argparse
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.servers import OURS, start_server
from common.command_line import show_progress
from common.errors import UserError
from common.models import RECORD
from digits_client.client import DigitsClient
from digits_client.types import Prediction
from handler.calibration import read_calibration
from handler.preprocessing import frame
from serving.config import ROOT, Config, read_config
from training.augmented_data import compute_logits
from training.data import load_raw_images
from training.model import load_model
from training.predict import CURRENT_MODEL

CONNECTIONS = 8


def evaluate_served(args: argparse.Namespace) -> int:
    """Evaluate on the test images of `args.data` and print the result."""
    arrays, labels = load_raw_images(args.data)
    images = [cv2.imencode(".png", array)[1].tobytes() for array in arrays]
    with start_server(OURS) as server:
        served = predict_served(read_config(server.folder / "config.properties"), images)
    correct = int((served.argmax(1) == labels).sum())
    print(f"served accuracy {correct / len(labels):.2%} ({correct} of {len(labels)} images, as PNG over HTTP)")
    print(f"largest difference from training's probabilities {np.abs(served - predict_offline(images)).max():.1e}")
    return 0


def predict_served(config: Config, images: Sequence[bytes]) -> NDArray[np.float64]:
    """Return the server's probabilities [N,10]; raise UserError if an image gets an error."""
    probabilities: list[tuple[float, ...]] = []
    with DigitsClient(server=config.make_server()) as client:
        predictions = client.predict_batch(images, connections=CONNECTIONS)
        for prediction in show_progress(predictions, "predicting", len(images), unit="images"):
            if not isinstance(prediction, Prediction):
                raise UserError(str(prediction)) from prediction
            probabilities.append(prediction.probabilities)
    return np.array(probabilities)


def predict_offline(images: Sequence[bytes]) -> NDArray[np.float64]:
    """Return probabilities [N,10] by training's code: the current state dict, the same preprocessing."""
    frames = torch.from_numpy(np.stack([frame(image) for image in images]))
    logits = compute_logits(load_model(CURRENT_MODEL), frames)
    return read_calibration(ROOT / RECORD).compute_probabilities(logits)
