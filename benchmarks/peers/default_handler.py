"""Peer: TorchServe with a handler as in its documentation, and its default settings: no batching.

https://pytorch.org/serve/custom_service.html
"""

from typing import Any

from ts.torch_handler.base_handler import BaseHandler

from benchmarks.peers.common import DigitModel, decode_instances, render_response


class DefaultHandler(BaseHandler):  # type: ignore[misc]  # TorchServe has no type hints
    """Accepts an image as the body, or a batch request, which TorchServe has parsed."""

    def initialize(self, context: Any) -> None:  # noqa: ARG002 - TorchServe's signature
        self.model = DigitModel()
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[bytes]]:
        bodies = [row["body"] for row in data]
        return [decode_instances(body) if isinstance(body, dict) else [bytes(body)] for body in bodies]

    def inference(self, data: list[list[bytes]]) -> list[list[dict[str, Any]]]:
        return [self.model.predict_images(images) for images in data]

    def postprocess(self, data: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return [render_response(predictions) for predictions in data]
