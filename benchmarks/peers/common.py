"""Preprocessing, model call and response of this project, shared by all peers, so that only the server differs."""

import json
from base64 import b64decode
from typing import Any

import cv2
import torch

from common.models import MODEL_FOLDERS
from handler.classifier import MODEL_BATCH_SIZE, Classifier
from handler.preprocessing import frame_with_warnings
from serving.config import ROOT

MAX_BATCH_SIZE = 16  # images that a server may put into one model call


class DigitModel:
    """A current model, warmed up for every batch size."""

    def __init__(self, model: str = "default") -> None:
        torch.set_num_threads(1)  # one worker per core; more threads only compete
        cv2.setNumThreads(1)
        folder = ROOT / MODEL_FOLDERS[model]
        self.classifier = Classifier(folder / "scripted_model.pt", folder / "model" / "model.json", "1.0")
        smoke = sorted((ROOT / "handler" / "smoke").glob("*.png"))
        self.classifier.warm_up([frame_with_warnings(path.read_bytes()) for path in smoke], MAX_BATCH_SIZE)

    def predict_images(self, images: list[bytes]) -> list[dict[str, Any]]:
        """Return one prediction per image, as the project's handler does."""
        frames = [frame_with_warnings(image) for image in images]
        calls = (frames[start : start + MODEL_BATCH_SIZE] for start in range(0, len(frames), MODEL_BATCH_SIZE))
        return [prediction for call in calls for prediction in self.classifier.predict(call)]


def decode_instances(request: dict[str, Any]) -> list[bytes]:
    """Return the images of `{"instances": [{"b64": "..."}]}`."""
    return [b64decode(instance["b64"], validate=True) for instance in request["instances"]]


def decode_body(body: bytes, content_type: str) -> list[bytes]:
    """Return the images of a body, which is an image or a batch request."""
    return decode_instances(json.loads(body)) if content_type == "application/json" else [body]


def render_response(predictions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the response to one image or to a batch request."""
    return predictions[0] if len(predictions) == 1 else {"predictions": predictions}
