"""Calls of DigitHandler as TorchServe's worker makes them, with TorchServe's own context."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from ts.context import Context, RequestProcessor

from handler.digit_handler import DigitHandler

JSON = {"Content-Type": "application/json"}
EXPLAIN = {"explain": "True"}
READ = {"X-Digits-Read": "number"}


def make_context(model_dir: Path, rows: int, headers: list[dict[str, Any]] | None = None) -> Context:
    """Make TorchServe's context for a batch of `rows` rows with these headers."""
    manifest = json.loads((model_dir / "MAR-INF" / "MANIFEST.json").read_text())
    context = Context("digits", str(model_dir), manifest, 16, None, "0.12.0")
    context.request_processor = [RequestProcessor(row) for row in headers or [{}] * rows]
    return context


def call_handler(
    handler: DigitHandler, model_dir: Path, rows: list[dict[str, Any]], headers: list[dict[str, Any]] | None = None
) -> list[tuple[int, Any]]:
    """Return the status and JSON of every row's response."""
    context = make_context(model_dir, len(rows), headers)
    responses = handler.handle(rows, context)
    assert all(context.get_response_content_type(row) == "application/json" for row in range(len(rows)))
    assert all(context.get_response_status(row)[1].isascii() for row in range(len(rows)))
    return [(context.get_response_status(row)[0], json.loads(response)) for row, response in enumerate(responses)]


def make_batch_body(*images: bytes) -> bytes:
    """Make the JSON body of a batch request."""
    return json.dumps({"instances": [{"b64": b64encode(image).decode()} for image in images]}).encode()
