"""Smoke test of a version: its probabilities for ten images, one per digit, must match those in its archive."""

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from digits_client.client import DigitsClient
from digits_client.exceptions import ApiError, UnexpectedResponseError

TOLERANCE = 1e-4  # largest difference between expected and served probabilities


@dataclass(frozen=True)
class Smoke:
    """Smoke images by digit, and by digit the ten probabilities that the training run computed."""

    images: dict[str, bytes]
    expected: dict[str, list[float]]

    def take_first(self) -> "Smoke":
        """Return only the first image."""
        return Smoke(dict([next(iter(self.images.items()))]), self.expected)


def parse_smoke(described: Any) -> Smoke:
    """Parse `smoke` of a version's metadata (handler/model_metadata.py): digit -> b64 and probabilities."""
    try:
        parts = described[0]["customizedMetadata"]["smoke"]
        images = {digit: b64decode(part["b64"]) for digit, part in parts.items()}
        return Smoke(images, {digit: part["probabilities"] for digit, part in parts.items()})
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedResponseError(
            "the version's description has no smoke images: it was archived before descriptions had them; "
            "use `make` on the server's machine, or archive it again"
        ) from error


def find_smoke_problem(client: DigitsClient, version: str, smoke: Smoke) -> str | None:
    """Return what is wrong with a version's predictions of smoke images, or None.

    Uses the version's own URL, so that what is counted for the default are callers' requests alone.
    """
    for digit, image in smoke.images.items():
        try:
            prediction = client.predict(image, version, probe=True)
        except ApiError as error:
            return f"smoke image {digit}.png: {error}"
        if str(prediction.digit) != digit:
            return f"smoke image {digit}.png: the digit is {prediction.digit}"
        if len(prediction.probabilities) != len(smoke.expected[digit]):
            return f"smoke image {digit}.png: {len(prediction.probabilities)} probabilities; expected ten"
        pairs = zip(prediction.probabilities, smoke.expected[digit], strict=True)
        if (off := max(abs(served - expected) for served, expected in pairs)) > TOLERANCE:
            return f"smoke image {digit}.png: probabilities differ by {off:.2g} from those its model.json expects"
    return None
