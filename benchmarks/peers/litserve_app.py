"""python benchmarks/peers/litserve_app.py PORT WORKERS

LitServe as its documentation tunes it for many requests a second: batching, several workers a device, several API
servers, its fast queue (https://lightning.ai/docs/litserve). It takes no raw picture, but JSON or a form; forms, no
batching or another queue made it slower.
"""

import sys
from base64 import b64decode
from typing import Any

import cv2
import torch
from litserve import LitAPI, LitServer

from reading import BATCH, instances, released


class DigitApi(LitAPI):
    """One picture as {"b64": "..."}, or many as {"instances": [{"b64": "..."}]}."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - there is but the CPU
        torch.set_num_threads(1)  # each worker has one core's work; more threads only fight each other
        cv2.setNumThreads(1)
        self.reading = released()

    def decode_request(self, request: dict[str, Any]) -> list[bytes]:
        return instances(request) if "instances" in request else [b64decode(request["b64"], validate=True)]

    def batch(self, inputs: list[list[bytes]]) -> list[list[bytes]]:
        return inputs

    def predict(self, inputs: list[list[bytes]]) -> list[list[dict[str, Any]]]:
        answers = iter(self.reading.answers([picture for pictures in inputs for picture in pictures]))
        return [[next(answers) for _ in pictures] for pictures in inputs]

    def unbatch(self, output: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        return output[0] if len(output) == 1 else {"predictions": output}


if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    api = DigitApi(max_batch_size=BATCH, batch_timeout=0.001, api_path="/predictions/digits")
    server = LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(host="127.0.0.1", port=port, num_api_servers=workers, log_level="warning", generate_client_file=False)
