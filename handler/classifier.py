"""Classify frames (handler/preprocessing.py) with a model and its calibration."""

from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from handler.calibration import read_calibration
from handler.networks import load_network
from handler.preprocessing import FramedImage, to_gray_input

# Images in one model call; malloc would return the memory of more to the system every time (serving/java_command.py).
MODEL_BATCH_SIZE = 32


class Classifier:
    """A scripted or ONNX model and the calibration of its model.json."""

    def __init__(self, model: Path, record_path: Path, version: str) -> None:
        self.calibration = read_calibration(record_path)
        self.network = load_network(model)
        self.version = version

    def predict(self, images: Sequence[FramedImage]) -> list[dict[str, Any]]:
        """Predict at most MODEL_BATCH_SIZE images in one model call; return the fields of their responses, in order."""
        logits = self.network(to_gray_input([image.frame for image in images]))  # [N,10]
        probabilities = self.calibration.compute_probabilities(logits)  # [N,10]
        accepted = self.calibration.accept_probabilities(probabilities, [image.warnings for image in images])  # [N]
        columns = (images, probabilities.tolist(), accepted.tolist())
        return [self._make_prediction(*row) for row in zip(*columns, strict=True)]

    def warm_up(self, images: Iterable[FramedImage], batch_size: int) -> None:
        """Call the model with every batch size: the first calls of a scripted model are slow."""
        for size in (1, 1, 1, *range(1, batch_size + 1), batch_size, MODEL_BATCH_SIZE, MODEL_BATCH_SIZE):
            self.predict(list(islice(cycle(images), size)))

    def _make_prediction(self, image: FramedImage, probabilities: list[float], accepted: bool) -> dict[str, Any]:
        confidence = max(probabilities)
        return {
            "digit": probabilities.index(confidence),
            "confidence": confidence,
            "accepted": accepted,
            "probabilities": probabilities,
            "warnings": image.warnings,
            "model_version": self.version,
        }
