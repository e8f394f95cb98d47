"""A handler for TorchServe as its documentation writes one, run with its defaults: no batching, no settings of ours.

https://pytorch.org/serve/custom_service.html
"""

from pathlib import Path
from typing import Any

from ts.torch_handler.base_handler import BaseHandler

from reading import Reading, instances


class DefaultHandler(BaseHandler):  # type: ignore[misc]  # TorchServe has no type hints
    """Takes a picture as the body, or many as JSON, which TorchServe has parsed."""

    def initialize(self, context: Any) -> None:
        folder = Path(context.system_properties["model_dir"])
        self.reading = Reading(folder / "scripted_model.pt", folder / "model.json")
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[bytes]]:
        return [instances(row["body"]) if isinstance(row["body"], dict) else [bytes(row["body"])] for row in data]

    def inference(self, data: list[list[bytes]]) -> list[list[dict[str, Any]]]:
        return [self.reading.answers(pictures) for pictures in data]

    def postprocess(self, data: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return [answers[0] if len(answers) == 1 else {"predictions": answers} for answers in data]
