"""Tests of images made to keep a worker busy: small files that repeat the same work."""

import gc
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from handler.digit_handler import DigitHandler
from handler.time_limit import CpuLimitError, run_with_cpu_limit
from serving.config import ROOT, Config
from serving.local_management import LocalManagementClient
from tests.handler_calls import make_context
from tests.images import SEVEN, SMOKE, encode
from tests.servers import run_supervised


def make_bmp_of_runs() -> bytes:
    """Make a BMP of 49 million pixels in a line that ends after the first; Pillow fills it one by one."""
    data = b"\x01\x01\x00\x00\x00\x01"
    start = 14 + 40 + 4 * 256
    head = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, 49_000_000, 1, 1, 8, 1, len(data), 0, 0, 256, 0) + bytes(1024) + data


def make_png_of_exif() -> bytes:
    """Make a PNG rotated by an EXIF block of two million fractions, which Pillow rewrites without the orientation."""
    tags, fractions = 10, 200_000
    start = 8 + 2 + 12 * (tags + 1) + 4
    fields = [struct.pack(">HHIHH", 0x0112, 3, 1, 2, 0)]
    fields += [struct.pack(">HHII", 0x9000 + tag, 5, fractions, start + tag * 8 * fractions) for tag in range(tags)]
    block = b"MM\0*" + struct.pack(">IH", 8, len(fields)) + b"".join(fields) + bytes(4)
    return encode(SEVEN, exif=b"Exif\0\0" + block + struct.pack(">II", 1, 3) * (tags * fractions))


SLOW: dict[str, Callable[[], bytes]] = {"bmp of runs": make_bmp_of_runs, "png of exif": make_png_of_exif}


@pytest.mark.parametrize("name", SLOW)
def test_slow_image_fails_alone(
    name: str, handler: DigitHandler, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler.image_reader.IMAGE_CPU_SECONDS", 1.0)  # they take some seconds on any machine
    context = make_context(model_dir, 3)
    started = time.process_time()
    one, slow, other = handler.handle([{"body": image} for image in (SMOKE[1], SLOW[name](), SMOKE[2])], context)
    assert time.process_time() - started < 2.5
    assert (json.loads(one)["digit"], json.loads(other)["digit"]) == (1, 2)
    assert json.loads(slow) == {
        "code": 413,
        "type": "InvalidImage",
        "message": "the image takes over 1 s to read; send it smaller or as PNG",
    }


@pytest.mark.slow
def test_worst_shape_of_an_image_fits_into_memory() -> None:
    """An image one pixel wide: Pillow keeps a pointer per line, and every step makes a copy."""
    code = """
import resource
from PIL import Image
from handler.preprocessing import ImageError, frame
from tests.images import make_transparent_png
image = make_transparent_png(1, 49_000_000)
try:
    frame(image)
except ImageError as error:
    print(error.status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    status, peak = map(int, run.stdout.split())
    print(f"an image of 1x49,000,000 pixels, gray with transparency: at most {peak} MiB")
    assert status == 422
    assert peak < 2500


def test_time_limit_ends_code_that_catches_every_error_and_no_other() -> None:
    def run_forever() -> None:
        while True:
            with suppress(Exception):
                sum(range(1000))

    def drop_error_once() -> None:
        with suppress(CpuLimitError):
            run_forever()
        run_forever()

    for endless in (run_forever, drop_error_once):
        with pytest.raises(CpuLimitError):
            run_with_cpu_limit(0.05, endless)
    assert run_with_cpu_limit(0.05, sum, [1, 2]) == 3
    assert gc.isenabled()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        sum(range(1000))


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, pytest.param(48, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_dozens_of_slow_images_cost_no_worker_and_no_other_request(count: int, own: Config) -> None:
    """Both workers get full batches of them. Good images wait, or get an error that says to retry."""
    slow = make_bmp_of_runs()
    with (
        run_supervised(own),
        LocalManagementClient(own, retries=0, timeout=150) as client,
        ThreadPoolExecutor(2 * count) as pool,
    ):
        workers = {worker.pid for worker in client.get_default().workers}
        started = time.monotonic()
        images = [slow, SMOKE[7]] * count
        responses = list(
            pool.map(lambda image: client.inference.api.request("POST", "/predictions/digits", data=image), images)
        )
        print(f"{count} slow images: the last response after {time.monotonic() - started:.0f} s")
        assert {response.status_code for response in responses[::2]} <= {413, 422, 503}  # 422 on a fast machine: blank
        assert {response.status_code for response in responses[1::2]} <= {200, 503}
        late = [response.json() for response in responses if response.status_code == 503]
        assert all(error["type"] == "DeadlineExceeded" for error in late)
        assert count > 4 or not late
        assert {worker.pid for worker in client.get_default().workers} == workers
        assert client.inference.predict(SMOKE[7]).digit == 7
