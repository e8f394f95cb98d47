"""Pictures answered by the handler itself, as TorchServe's worker asks it: from an archive, in batches of rows."""

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
from handler.calibration import SCORE_TEMPERATURE_SCALE, compute_negative_entropy
from handler.digit_handler import DigitHandler
from serving.archive import build_archive
from training.model import CLASSES

LOWEST = -1e6  # score of a blank picture, below any other


@dataclass(frozen=True)
class Responses:
    """What the handler said of N pictures; one it refused as blank has digit -1, confidence 0 and the lowest score."""

    digits: NDArray[np.int64]
    probabilities: NDArray[np.float64]  # [N,10]
    scores: NDArray[np.float64]  # [N], what acceptance goes by
    accepted: NDArray[np.bool_]
    refused: NDArray[np.bool_]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the digit [N]."""
        return np.asarray(self.probabilities.max(1))


class HandlerRunner:
    """A handler with the released archive; `answers` asks it."""

    def __init__(self, folder: Path) -> None:
        with ZipFile(build_archive("0", folder)) as archive:
            archive.extractall(folder)
        self.folder = folder
        self.manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
        self.batch = int(yaml.safe_load((folder / "model-config.yaml").read_text())["batchSize"])
        self.handler = DigitHandler()
        self.handler.initialize(self._context(0))

    def answers(self, pictures: list[bytes], name: str) -> Responses:
        """Asks for all pictures in batches of the shipped size; any other refusal than 422 is an error."""
        starts = show_progress(range(0, len(pictures), self.batch), name)
        rows = [row for start in starts for row in self._batch(pictures[start : start + self.batch])]
        blank = np.array([status == 422 for status, _ in rows])
        unknown: dict[str, Any] = {"digit": -1, "probabilities": [0.0] * CLASSES, "accepted": False}
        known = [unknown if status == 422 else answer for status, answer in rows]
        probabilities = np.array([row["probabilities"] for row in known])
        scores = compute_negative_entropy(
            torch.from_numpy(probabilities).log(), SCORE_TEMPERATURE_SCALE
        ).numpy()  # nan of a blank image
        return Responses(
            np.array([row["digit"] for row in known]),
            probabilities,
            np.where(blank, LOWEST, scores),
            np.array([row["accepted"] for row in known]),
            blank,
        )

    def _batch(self, pictures: list[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        context = self._context(len(pictures))
        answers = self.handler.handle([{"body": picture} for picture in pictures], context)
        for row, answer in enumerate(answers):
            status, _ = context.get_response_status(row)
            if status not in (200, 422):
                raise ValueError(f"the handler answered {status}: {answer!r}")
            yield status, json.loads(answer)

    def _context(self, rows: int) -> Context:
        context = Context("digits", str(self.folder), self.manifest, 16, None, "0.12.0")
        context.request_processor = [RequestProcessor({}) for _ in range(rows)]
        return context


@contextmanager
def start_handler() -> Iterator[HandlerRunner]:
    """The handler with the released model; torch's number of threads is put back, which the handler sets to one."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        yield HandlerRunner(Path(folder))
    torch.set_num_threads(threads)
