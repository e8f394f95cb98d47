"""TorchServe's entry: request rows in, one answer or refusal a row out. Exactly one class, as TorchServe wants."""

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import cv2
import torch

from handler.confidence import read_calibration
from handler.preprocessing import Framed, ImageError, examine, to_input

Row = dict[str, Any]  # field -> what was sent in it; a raw body is the field "body"


class DigitHandler:
    """Answers a batch with one model call; a picture that cannot be read fails alone, with its own status."""

    def initialize(self, context: Any) -> None:
        """Loads the scripted model of the archive, optimises it and answers the smoke pictures once."""
        torch.set_num_threads(1)  # each worker has one core's work; more threads only fight each other
        cv2.setNumThreads(1)
        folder = Path(context.system_properties["model_dir"])
        model = context.manifest["model"]
        self.version: str = model["modelVersion"]
        scripted = torch.jit.load(str(folder / model["serializedFile"]), map_location="cpu").eval()
        self.calibration = read_calibration(folder / "model.json")
        self.model = torch.jit.optimize_for_inference(torch.jit.freeze(scripted))
        self._warm_up(sorted((folder / "handler" / "smoke").glob("*.png")), context.system_properties["batch_size"])
        logging.getLogger().setLevel(logging.WARNING)  # TorchServe's worker logs a line for every batch

    def handle(self, rows: Sequence[Row], context: Any) -> list[bytes]:
        """One JSON answer a row, in order; sets status and content type of each."""
        examined = [_examined(row) for row in rows]
        answers = iter(self._answers([result for result in examined if not isinstance(result, ImageError)]))
        return [
            _respond(context, index, result.status, _refusal(result))
            if isinstance(result, ImageError)
            else _respond(context, index, HTTPStatus.OK, next(answers))
            for index, result in enumerate(examined)
        ]

    def _answers(self, pictures: list[Framed]) -> list[dict[str, Any]]:
        if not pictures:
            return []
        with torch.inference_mode():
            logits = self.model(to_input([picture.frame for picture in pictures]))
            probabilities = self.calibration.probabilities(logits)  # [N,10]
            accepted = self.calibration.accepted(logits)  # [N]
        columns = (pictures, probabilities.tolist(), accepted.tolist())
        return [self._answer(*row) for row in zip(*columns, strict=True)]

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

    def _warm_up(self, smoke: list[Path], batch_size: int) -> None:
        """The first calls of a scripted model are slow, for each new batch size again: made here, not by a user."""
        pictures = [examine(path.read_bytes()) for path in smoke]
        for size in (1, 1, 1, len(pictures), batch_size, batch_size):
            self._answers((pictures * size)[:size])


def _examined(row: Row) -> Framed | ImageError:
    try:
        return examine(_picture(row))
    except ImageError as error:
        return error
    except Exception as error:  # whatever it is, memory for instance, it must not reach the row's neighbours
        logging.exception("a picture failed unexpectedly")
        return ImageError(400, f"the picture cannot be processed: {type(error).__name__}")


def _picture(row: Row) -> bytes:
    """The picture's bytes: the multipart field `data`, else the raw body."""
    sent = row.get("data", row.get("body"))
    if isinstance(sent, bytes | bytearray):
        return bytes(sent)
    fields = ascii(", ".join(sorted(row)))[1:-1][:80] if row else "none"  # a misread body may be one
    raise ImageError(
        400, f"no picture among the request's fields ({fields}); send it as the raw body or as the multipart field data"
    )


def _refusal(error: ImageError) -> dict[str, Any]:
    return {"code": error.status, "type": "InvalidImage", "message": error.message}


def _respond(context: Any, index: int, status: int, answer: dict[str, Any]) -> bytes:
    """Sets the row's status and content type; bytes, because TorchServe would indent a dict."""
    context.set_response_status(status, HTTPStatus(status).phrase, index)
    context.set_response_content_type(index, "application/json")
    return json.dumps(answer).encode()
