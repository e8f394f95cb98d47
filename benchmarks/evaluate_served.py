"""python -m benchmarks.evaluate_served --data PATH: accuracy through the served API, agreement with training.

Starts a server of its own with the released model on free ports, sends every test picture as a PNG and compares each
answer with what training's own path gives for the same bytes.
"""

import argparse
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from handler.confidence import read_calibration
from handler.preprocessing import frame, to_input
from serving.archive import build_archive
from serving.client import DigitsClient
from serving.config import ROOT, Config, ServingError, on_free_ports
from serving.results import Answer
from serving.supervisor import running
from training.data import DataError, raw_pictures
from training.export import RECORD
from training.model import load_model
from training.predict import RELEASED

CONNECTIONS = 8


def png(grey: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(grey).save(file, "PNG")
    return file.getvalue()


def served(config: Config, pictures: list[bytes]) -> NDArray[np.float64]:
    """Probabilities [N,10] as the server answers them; ServingError if it refuses one."""
    told: list[tuple[float, ...]] = []
    with DigitsClient(config) as client:
        answers = client.predict_many(pictures, CONNECTIONS)
        for answer in tqdm(answers, "asking", len(pictures), leave=False, disable=None):
            if not isinstance(answer, Answer):
                raise answer
            told.append(answer.probabilities)
    return np.array(told)


def trained(pictures: list[bytes]) -> NDArray[np.float64]:
    """Probabilities [N,10] of training's own path: the released state dict, the same preprocessing."""
    model = load_model(RELEASED)
    with torch.inference_mode():
        batches = [pictures[start : start + 500] for start in range(0, len(pictures), 500)]
        logits = [model(to_input([frame(picture) for picture in batch])) for batch in batches]
    probabilities = read_calibration(ROOT / RECORD).probabilities(torch.cat(logits))
    return np.asarray(probabilities.numpy())


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.evaluate_served", description=__doc__)
    parser.add_argument("--data", default="mnist", help="mnist, mnist5k or a torchvision root (default: %(default)s)")
    given = parser.parse_args()
    try:
        greys, labels = raw_pictures(given.data)
        pictures = [png(grey) for grey in greys]
        with tempfile.TemporaryDirectory() as folder:
            config = on_free_ports(Path(folder), Path(folder) / "model_store")
            build_archive("1.0", config.model_store)
            with running(config):
                started = time.perf_counter()
                answers = served(config, pictures)
                seconds = time.perf_counter() - started
    except (DataError, ServingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    right = int((answers.argmax(1) == labels).sum())
    print(f"served accuracy {right / len(labels):.2%} ({right} of {len(labels)} pictures, as PNG over HTTP)")
    print(f"largest difference to training's probabilities {np.abs(answers - trained(pictures)).max():.1e}")
    print(f"{seconds:.1f} s with {CONNECTIONS} connections")
    return 0


if __name__ == "__main__":
    sys.exit(main())
