"""python -m benchmarks.in_process: the released handler without a server, on one core, in full batches, as JSON.

What serving could reach at best: cores times this. The batches are of 28x28 PNGs, as TorchServe gives them; reading
the rows, decoding, framing, model call and answer are in it.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from ts.context import Context, RequestProcessor

from benchmarks.loads import pngs
from handler.digit_handler import DigitHandler
from serving.config import MODEL, ROOT

HEADERS = {"host": "127.0.0.1", "content-type": "image/png"}


class Limit:
    """The handler of an unpacked archive, asked in batches of a size."""

    def __init__(self, batch: int) -> None:
        self.handler = DigitHandler()
        with tempfile.TemporaryDirectory() as folder:
            self.context = _context(Path(folder), batch)
            self.handler.initialize(self.context)
        self.batches = [pngs()[start : start + batch] for start in range(0, len(pngs()) - batch + 1, batch)]

    def pictures_a_second(self) -> float:
        """Of one round over all pictures."""
        started = time.perf_counter()
        for pictures in self.batches:
            self._handle(pictures)
        return sum(map(len, self.batches)) / (time.perf_counter() - started)

    def answers(self, pictures: list[bytes]) -> list[dict[str, Any]]:
        """One a picture, of one batch."""
        return [json.loads(answer) for answer in self._handle(pictures)]

    def _handle(self, pictures: list[bytes]) -> list[bytes]:
        self.context.request_processor = [RequestProcessor(dict(HEADERS)) for _ in pictures]
        return self.handler.handle([{"body": bytearray(picture)} for picture in pictures], self.context)


def keep_to_one_core() -> None:
    """This process, where the system can be told so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def in_process(rounds: int) -> dict[str, Any]:
    """The median of so many rounds, in batches of the size that is shipped."""
    keep_to_one_core()
    batch = int(yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())["batchSize"])
    limit = Limit(batch)
    speeds = [limit.pictures_a_second() for _ in range(rounds + 1)][1:]  # the first warms up
    return {"batch": batch, "rounds": speeds, "pictures_per_second": statistics.median(speeds)}


def _context(folder: Path, batch: int) -> Context:
    """TorchServe's own, for an archive unpacked into the folder."""
    shutil.copy2(ROOT / "scripted_model.pt", folder)
    shutil.copy2(ROOT / "model" / "model.json", folder)
    shutil.copytree(ROOT / "handler", folder / "handler")
    manifest = {"model": {"modelName": MODEL, "modelVersion": "1.0", "serializedFile": "scripted_model.pt"}}
    return Context(MODEL, str(folder), manifest, batch, None, "0")


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.in_process", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="the median counts (default: %(default)s)")
    print(json.dumps(in_process(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
