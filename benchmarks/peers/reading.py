"""What each peer does with what was sent: the project's own framing, model call and answer; only the server differs."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import handler
from handler.preprocessing import Framed, examine, examine_grey, read_grey
from handler.reader import CALL, Reader

VERSION = "1.0"
BATCH = 16  # pictures that come singly are answered in batches of this size at most
PACKAGE = Path(handler.__file__).parent


class Reading:
    """The released model, ready: the first calls of each size, which are slow, are behind it."""

    def __init__(self, scripted: Path, record: Path) -> None:
        self.reader = Reader(scripted, record, VERSION)
        smoke = [examine(path.read_bytes()) for path in sorted((PACKAGE / "smoke").glob("*.png"))]
        self.reader.warm_up(smoke, BATCH)

    def answers(self, pictures: list[bytes]) -> list[dict[str, Any]]:
        """One a picture, as the project's handler does it: all are read, all are framed, the model is asked."""
        return self.reader.answers(_framed(pictures[start : start + CALL]) for start in range(0, len(pictures), CALL))

    def answer(self, body: bytes, content_type: str) -> dict[str, Any]:
        """What the project answers to the same body: a digit, or the predictions of a JSON body's instances."""
        if content_type == "application/json":
            return {"predictions": self.answers(instances(json.loads(body)))}
        return self.answers([body])[0]


def _framed(pictures: list[bytes]) -> list[Framed]:
    greys = [read_grey(picture) for picture in pictures]
    return [examine_grey(grey) for grey in greys]


def released(root: Path = PACKAGE.parent) -> Reading:
    """Of the checkout."""
    return Reading(root / "scripted_model.pt", root / "model" / "model.json")


def instances(sent: dict[str, Any]) -> list[bytes]:
    """The pictures of `{"instances": [{"b64": "..."}]}`."""
    return [b64decode(instance["b64"], validate=True) for instance in sent["instances"]]
