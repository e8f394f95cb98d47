"""Predictions by the handler itself: loaded from an archive and called with batches of requests, as TorchServe does."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from ts.context import Context, RequestProcessor

from common.command_line import show_progress
from handler.calibration import compute_negative_entropy
from handler.digit_handler import DigitHandler
from serving.archive import build_archive
from training.model import CLASSES

BLANK_SCORE = -1e6  # below the score of any predicted image


@dataclass(frozen=True)
class Predictions:
    """Predictions of N images; a blank one (error 422) has digit -1, confidence 0 and BLANK_SCORE."""

    digits: NDArray[np.int64]
    probabilities: NDArray[np.float64]  # [N,10]
    scores: NDArray[np.float64]  # [N], compared with the acceptance threshold
    accepted: NDArray[np.bool_]
    blank: NDArray[np.bool_]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted digit [N]."""
        return np.asarray(self.probabilities.max(1))


class HandlerRunner:
    """Runs the handler with an archive of a current model, unpacked into a folder."""

    def __init__(self, folder: Path, model: str) -> None:
        with ZipFile(build_archive("0", folder, model=model)) as archive:
            archive.extractall(folder)
        self.folder = folder
        self.manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
        self.batch_size = int(yaml.safe_load((folder / "model-config.yaml").read_text())["batchSize"])
        self.handler = DigitHandler()
        self.handler.initialize(self._make_context(0))

    def predict(self, images: list[bytes], name: str) -> Predictions:
        """Predict all images in batches of the shipped size; raise ValueError for any error other than 422."""
        starts = show_progress(range(0, len(images), self.batch_size), name)
        batches = (images[start : start + self.batch_size] for start in starts)
        responses = [response for batch in batches for response in self.respond(batch)]
        blank = np.array([status == 422 for status, _ in responses])
        missing: dict[str, Any] = {"digit": -1, "probabilities": [0.0] * CLASSES, "accepted": False}
        predictions = [missing if status == 422 else body for status, body in responses]
        probabilities = np.array([prediction["probabilities"] for prediction in predictions])
        scores = compute_negative_entropy(probabilities)
        return Predictions(
            np.array([prediction["digit"] for prediction in predictions]),
            probabilities,
            np.where(blank, BLANK_SCORE, scores),
            np.array([prediction["accepted"] for prediction in predictions]),
            blank,
        )

    def respond(self, images: list[bytes], headers: dict[str, str] | None = None) -> list[tuple[int, Any]]:
        """Return status and response to requests for the images; raise ValueError for any error other than 422."""
        context = self._make_context(len(images), headers)
        bodies = self.handler.handle([{"body": image} for image in images], context)
        responses = []
        for row, body in enumerate(bodies):
            status, _ = context.get_response_status(row)
            if status not in (200, 422):
                raise ValueError(f"the handler responded with status {status}: {body!r}; expected 200 or 422")
            responses.append((status, json.loads(body)))
        return responses

    def _make_context(self, requests: int, headers: dict[str, str] | None = None) -> Context:
        context = Context("digits", str(self.folder), self.manifest, 16, None, "0.12.0")
        context.request_processor = [RequestProcessor(headers or {}) for _ in range(requests)]
        return context


@contextmanager
def start_handler(model: str = "default") -> Iterator[HandlerRunner]:
    """Yield the handler with a current model; restore torch's number of threads, which the handler sets to one."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        yield HandlerRunner(Path(folder), model)
    torch.set_num_threads(threads)
