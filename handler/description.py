"""What the service takes and gives, as JSON Schema (2020-12): told by the management API and by docs/openapi.yaml."""

from base64 import b64encode
from typing import Any

from handler.decoding import FORMATS, MAX_BYTES, MAX_PIXELS
from handler.marks import SIZE
from handler.preprocessing import WARNINGS
from handler.protocol import MAX_INSTANCES
from handler.request_parser import MAX_BRACKETS, MAX_COMMAS

Schema = dict[str, Any]

DIGIT: Schema = {"type": "integer", "minimum": 0, "maximum": 9}
PROBABILITY: Schema = {"type": "number", "minimum": 0, "maximum": 1}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


def _rows(of: Schema) -> Schema:
    """SIZE lists of SIZE of them."""
    row = {"type": "array", "minItems": SIZE, "maxItems": SIZE, "items": of}
    return row | {"items": row}


def _one_of(*names: str) -> Schema:
    return {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in names]}


SCHEMAS: dict[str, Schema] = {
    "Answer": _object(
        digit=DIGIT,
        confidence=PROBABILITY,
        accepted={"type": "boolean"},
        probabilities={"type": "array", "minItems": 10, "maxItems": 10, "items": PROBABILITY},
        warnings={"type": "array", "uniqueItems": True, "items": {"enum": list(WARNINGS)}},
        model_version={"type": "string"},
    ),
    "Refusal": _object(code={"type": "integer"}, type={"type": "string"}, message={"type": "string"}),
    "Instances": {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {
                "type": "array",
                "maxItems": MAX_INSTANCES,
                "items": {
                    "type": "object",
                    "required": ["b64"],
                    "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
                },
            }
        },
    },
    "Predictions": _object(
        predictions={"type": "array", "maxItems": MAX_INSTANCES, "items": _one_of("Answer", "Refusal")},
    ),
    "Explanation": _object(
        digit=DIGIT,
        target=DIGIT,
        attribution=_rows({"type": "number"}),
        framed=_rows({"type": "integer", "minimum": 0, "maximum": 255}),
    ),
}


def description(version: str, record: dict[str, Any], smoke_images: dict[str, bytes]) -> dict[str, Any]:
    """Describe the archive's version by its model.json and its smoke images, digit -> PNG."""
    expected = record.get("smoke", {})
    return {
        "version": version,
        "run": {key: record.get(key) for key in ("run_id", "data", "recipe", "libraries")},
        "metrics": record.get("metrics", {}),
        "calibration": record.get("calibration", {}),
        "limits": {
            "bytes": MAX_BYTES,
            "pixels": MAX_PIXELS,
            "formats": list(FORMATS),
            "instances": MAX_INSTANCES,
            "json_brackets": MAX_BRACKETS,
            "json_commas": MAX_COMMAS,
        },
        "input": {"picture": f"raw body or multipart field data: {', '.join(FORMATS)}", "json": "Instances"},
        "output": {"picture": "Answer", "json": "Predictions", "explanations": "Explanation", "refused": "Refusal"},
        "components": {"schemas": SCHEMAS},
        "smoke": {
            digit: {"b64": b64encode(image).decode(), "probabilities": expected.get(digit)}
            for digit, image in smoke_images.items()
        },
    }
