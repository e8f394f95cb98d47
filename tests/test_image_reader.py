"""handler/image_reader.py without torch, as workers of bulk prediction run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.models import MODEL_FOLDERS, ONNX, RECORD
from handler.digit_handler import DigitHandler
from serving.config import ROOT
from tests.handler_calls import READ, call_handler
from tests.images import SMOKE, bad_images
from tests.number_images import encode_number

SCRIPT = """
import json, sys
from pathlib import Path
sys.modules["torch"] = sys.modules["ts"] = None  # importing them fails
from handler.image_reader import ImageReader
from handler.records import ImageRecord
model, record, *paths = map(Path, sys.argv[1:])
reader = ImageReader(model, record, Path("handler/segment_model.onnx"), "2.5")
images = [ImageRecord(path.read_bytes(), reads_number="number" in path.name) for path in paths]
reader.read(images)
print(json.dumps([image.response for image in images]))
"""


def read_without_torch(model: str, paths: list[Path]) -> list[dict[str, object]]:
    folder = ROOT / MODEL_FOLDERS[model]
    command: list[str | Path] = [sys.executable, "-c", SCRIPT, folder / ONNX, folder / RECORD, *paths]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return list(json.loads(run.stdout))


def test_responses_without_torch_are_the_handlers(handler: DigitHandler, model_dir: Path, tmp_path: Path) -> None:
    bad = {name: case.body for name, case in bad_images().items() if case.request is None}
    images = {f"digit {digit}": image for digit, image in SMOKE.items()} | bad
    images |= {f"number {number}": encode_number(number) for number in ("7", "40271", "388")}
    paths = [tmp_path / str(index) for index in range(len(images))]
    for index, (name, image) in enumerate(images.items()):
        paths[index] = tmp_path / f"{index}-{'number' if name.startswith('number') else 'digit'}"
        paths[index].write_bytes(image)
    rows = [{"body": image} for image in images.values()]
    headers = [READ if name.startswith("number") else {} for name in images]
    expected = [response for _, response in call_handler(handler, model_dir, rows, headers)]
    for name, read, served in zip(images, read_without_torch("default", paths), expected, strict=True):
        assert flatten(read) == pytest.approx(flatten(served), abs=1e-4), name


def flatten(value: object, name: str = "") -> dict[str, object]:
    """Return the values of nested lists and dictionaries, by their position."""
    if not isinstance(value, dict | list):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: leaf for part, inner in items for key, leaf in flatten(inner, f"{name}/{part}").items()}


def test_large_model_reads_without_torch(tmp_path: Path) -> None:
    paths = [tmp_path / f"digit-{digit}" for digit in SMOKE]
    for path, image in zip(paths, SMOKE.values(), strict=True):
        path.write_bytes(image)
    assert [response["digit"] for response in read_without_torch("large", paths)] == list(SMOKE)
