"""Client of the inference API: predictions of one image or many, and explanations.

from digits_client import DigitsClient

with DigitsClient() as client:
    client.predict("handler/smoke/7.png").digit  # 7
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from digits_client.batch_predict import BATCH_SIZE, CONNECTIONS, predict_batches
from digits_client.encoding import ImageLike, encode_image
from digits_client.exceptions import DigitsError
from digits_client.transport import (
    PROBE_HEADER,
    READ_HEADER,
    RETRIES,
    TIMEOUT,
    ApiClient,
    ClosingClient,
    Server,
    TokenSource,
    find_server,
    retry_all,
)
from digits_client.types import Explanation, Number, Prediction, parse_explanation, parse_number, parse_prediction


class DigitsClient(ClosingClient):
    """Predicts and explains images with a server, by default the one that runs in this checkout.

    `url` is its inference address. The token is `token`, else DIGITS_INFERENCE_TOKEN, else that of a server on this
    machine, which is read again when it was replaced. `certificate` is a PEM file: the one that the server must
    present, if no known authority has signed it. Give `server` instead of a URL to name all addresses.

    Every method raises DigitsError: ApiError with the server's status, type and message, or UnreachableError. A client
    may be shared by threads.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        certificate: str | Path = "",
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        server: Server | None = None,
    ) -> None:
        self.server = server or find_server(url)
        tokens = TokenSource("inference", token, self.server)
        pinned = str(certificate) or self.server.certificate
        self.api = ApiClient(self.server.inference, tokens, timeout, retry_all(retries), pinned)

    def predict(self, image: ImageLike, version: str = "", probe: bool = False) -> Prediction:
        """Predict the digit of an image with the default version or the given one.

        `image` is a path, a file's bytes, a PIL image, or an array: uint8 [H,W], [H,W,3] or [H,W,4], uint16 or bool
        [H,W]. A probe appears in no metric but that of probes.
        """
        return parse_prediction(self.infer("predictions", version, probe, data=encode_image(image)))

    def read_number(self, image: ImageLike, version: str = "", probe: bool = False) -> Number:
        """Read the number on an image, as `predict` does the digit; its boxes are in pixels of the image as sent."""
        headers = {READ_HEADER: "number"}
        return parse_number(self.infer("predictions", version, probe, data=encode_image(image), headers=headers))

    def predict_batch(
        self,
        images: Iterable[ImageLike],
        batch_size: int = BATCH_SIZE,
        connections: int = CONNECTIONS,
        version: str = "",
    ) -> Iterator[Prediction | DigitsError]:
        """Yield the prediction or the error of every image, in order.

        Sends `batch_size` images (1 to 256) in a request, `connections` requests at a time. Images are taken as
        requests are answered, so there may be more of them than memory holds.
        """
        return predict_batches(self, images, batch_size, connections, version)

    def read_numbers(
        self,
        images: Iterable[ImageLike],
        batch_size: int = BATCH_SIZE,
        connections: int = CONNECTIONS,
        version: str = "",
    ) -> Iterator[Number | DigitsError]:
        """Yield the number or the error of every image, in order, as `predict_batch` does the digits."""
        return predict_batches(self, images, batch_size, connections, version, numbers=True)

    def explain(
        self, image: ImageLike, target: int | None = None, version: str = "", probe: bool = False
    ) -> Explanation:
        """Explain the digit of an image; with a `target`, what is evidence for and against that digit."""
        form = {"data": ("image", encode_image(image))}
        fields = {} if target is None else {"target": (None, str(target))}
        return parse_explanation(self.infer("explanations", version, probe, files=form | fields))

    def infer(self, kind: str, version: str, probe: bool = False, **options: Any) -> Any:
        """Send a request for `predictions` or `explanations`; return the JSON of the response."""
        path = f"/{kind}/digits" + (f"/{version}" if version else "")
        headers = options.pop("headers", {}) | ({PROBE_HEADER: "1"} if probe else {})
        return self.api.call_json("POST", path, headers=headers, **options)
