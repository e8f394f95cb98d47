"""Describe a version for the management API, which returns it with `customized=true`."""

from base64 import b64encode
from typing import Any


def describe_model(version: str, record: dict[str, Any], smoke_images: dict[str, bytes]) -> dict[str, Any]:
    """Describe the archive's version by its model.json and its smoke images, digit -> PNG."""
    expected = record.get("smoke", {})
    return {
        "version": version,
        "run": {key: record.get(key) for key in ("run_id", "data", "recipe", "libraries")},
        "metrics": record.get("metrics", {}),
        "calibration": record.get("calibration", {}),
        "smoke": {
            digit: {"b64": b64encode(image).decode(), "probabilities": expected.get(digit)}
            for digit, image in smoke_images.items()
        },
    }
