"""Data sets for tests."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.images import digits
from training.data import DataSet, load_data


@cache
def mnist5k() -> DataSet:
    """Load the 5,000 images once per process; tests must not change them."""
    return load_data("mnist5k")


def write_folder(root: Path, per_digit: int = 3) -> Path:
    """Write subfolders 0 ... 9 with images of several formats and sizes."""
    grays, labels = digits()
    for digit in range(10):
        (root / str(digit)).mkdir(parents=True)
        for number, gray in enumerate(grays[labels == digit][:per_digit]):
            image = Image.fromarray(gray).resize((28 + 10 * number, 40))
            image.save(root / str(digit) / f"{number}.{('png', 'jpg', 'webp')[number % 3]}")
    return root


def write_mnist(root: Path) -> Path:
    """Write 100 training and 20 test images in MNIST's file layout."""
    grays, labels = digits()
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, rows in (("train", slice(0, 5000, 50)), ("t10k", slice(1, 5000, 250))):
        part, names = grays[rows], labels[rows].astype(np.uint8)
        header = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in part.shape)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + part.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + len(names).to_bytes(4, "big") + names.tobytes()
        )
    return root
