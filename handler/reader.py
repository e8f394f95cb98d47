"""What the released model says of framed pictures, whoever serves it."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from handler.confidence import read_calibration
from handler.preprocessing import Framed, to_input

CALL = 32  # pictures of one model call; what more would take, malloc gives back each time (serving/torchserve.py)
FEW = CALL // 2  # pictures that are not worth a thread's start


class Reader:
    """The scripted model and the calibration of its model.json: framed pictures in, the fields of answers out."""

    def __init__(self, scripted: Path, record: Path, version: str) -> None:
        self.calibration = read_calibration(record)
        self.network = grey_network(scripted)
        self.version = version
        self.aside = ThreadPoolExecutor(1)

    def answers(self, groups: Iterable[Sequence[Framed]]) -> list[dict[str, Any]]:
        """One answer a picture, in order; a model call for every group, of CALL pictures at most."""
        return [answer for answer, _ in self.timed_answers(groups)]

    def timed_answers(self, groups: Iterable[Sequence[Framed]]) -> list[tuple[dict[str, Any], float]]:
        """The same, each with the seconds that its model call took.

        Large groups are answered in a thread while the next one is made, if they are made as they are taken: torch
        leaves Python to others meanwhile.
        """
        calls = [self.aside.submit(self._call, group) if len(group) > FEW else self._call(group) for group in groups]
        return [answer for call in calls for answer in (call.result() if isinstance(call, Future) else call)]

    def warm_up(self, pictures: Iterable[Framed], batch: int) -> None:
        """The first calls of a scripted model are slow, for each new batch size again: made here, not by a user."""
        for size in (1, 1, 1, *range(1, batch + 1), batch, CALL, CALL):
            self.answers([list(islice(cycle(pictures), size))])

    def _call(self, pictures: Sequence[Framed]) -> list[tuple[dict[str, Any], float]]:
        if not pictures:
            return []
        begun = perf_counter()
        with torch.inference_mode():
            logits = self.network(to_input([picture.frame for picture in pictures])[:, :1])
            probabilities = self.calibration.probabilities(logits)  # [N,10]
            accepted = self.calibration.accepted(logits)  # [N]
        columns = (pictures, probabilities.tolist(), accepted.tolist())
        answers = [self._answer(*row) for row in zip(*columns, strict=True)]
        seconds = perf_counter() - begun
        return [(answer, seconds) for answer in answers]

    def _answer(self, picture: Framed, probabilities: list[float], accepted: bool) -> dict[str, Any]:
        confidence = max(probabilities)
        return {
            "digit": probabilities.index(confidence),
            "confidence": confidence,
            "accepted": accepted,
            "probabilities": probabilities,
            "warnings": picture.warnings,
            "model_version": self.version,
        }


def grey_network(scripted: Path) -> torch.jit.ScriptModule:
    """The scripted model for grey float32 [N,1,64,64], optimised. Its logits [N,10] differ by rounding alone."""
    return torch.jit.optimize_for_inference(torch.jit.freeze(folded(torch.jit.load(str(scripted), map_location="cpu"))))


def folded(model: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The same model for grey pictures: three equal channels are one, convolved with the summed weights."""
    model.conv1.weight.data = model.conv1.weight.data.sum(1, keepdim=True)
    return model.eval()
