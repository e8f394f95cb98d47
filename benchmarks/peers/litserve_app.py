"""Peer: LitServe, as its documentation recommends for throughput (https://lightning.ai/docs/litserve).

python -m benchmarks.peers.litserve_app PORT WORKERS
It has batching, several workers per device, several API servers and its fast queue. It accepts JSON or a form, not a
raw image; forms, no batching or another queue are slower.
"""

import sys
from typing import Any

from litserve import LitAPI, LitServer

from benchmarks.peers.common import MAX_BATCH_SIZE, DigitModel, decode_instances, render_response


class DigitApi(LitAPI):
    """Accepts one image as {"b64": "..."}, or a batch request."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - the CPU is the only device
        self.model = DigitModel()

    def decode_request(self, request: dict[str, Any]) -> list[bytes]:
        return decode_instances(request if "instances" in request else {"instances": [request]})

    def batch(self, inputs: list[list[bytes]]) -> list[list[bytes]]:
        return inputs

    def predict(self, inputs: list[list[bytes]]) -> list[list[dict[str, Any]]]:
        predictions = iter(self.model.predict_images([image for images in inputs for image in images]))
        return [[next(predictions) for _ in images] for images in inputs]

    def unbatch(self, output: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
        return output

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        return render_response(output)


if __name__ == "__main__":
    port, workers = map(int, sys.argv[1:])
    api = DigitApi(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.001, api_path="/predictions/digits")
    server = LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(host="127.0.0.1", port=port, num_api_servers=workers, log_level="warning", generate_client_file=False)
