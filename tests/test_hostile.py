"""Pictures made to keep a worker busy: small files that ask for the same work again and again."""

import json
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

from handler.decoding import MAX_SCANS, ImageError, decode
from handler.digit_handler import PICTURE_SECONDS, DigitHandler
from handler.time_limit import TooLongError, cpu_limit
from serving.client import DigitsClient
from serving.config import Config
from serving.supervisor import running
from tests.conftest import context_of
from tests.pictures import SEVEN, SMOKE, encode


def jpeg_of_scans(scans: int, image: Image.Image) -> bytes:
    """Progressive; its last scan again until there are so many."""
    jpeg = encode(image, "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * (scans - jpeg.count(b"\xff\xda")) + jpeg[-2:]


def bmp_of_runs() -> bytes:
    """49 million pixels in a line that ends after the first; Pillow fills it one by one."""
    data = b"\x01\x01\x00\x00\x00\x01"
    start = 14 + 40 + 4 * 256
    head = struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, 49_000_000, 1, 1, 8, 1, len(data), 0, 0, 256, 0) + bytes(1024) + data


def tiff_of_strips(count: int = 8_000_000) -> bytes:
    """64x64, uncompressed, with far more strips than lines."""
    ones = [(258, 8), (259, 1), (262, 1), (277, 1), (278, 1)]
    fields = [struct.pack("<HHII", tag, 4, 1, 64) for tag in (256, 257)]
    fields += [struct.pack("<HHII", tag, 3, 1, value) for tag, value in ones[:3]]
    offsets = 8 + 2 + 9 * 12 + 4
    fields += [struct.pack("<HHII", 273, 3, count, offsets)]
    fields += [struct.pack("<HHII", tag, 3, 1, value) for tag, value in ones[3:]]
    fields += [struct.pack("<HHII", 279, 3, count, offsets)]
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + b"".join(fields) + bytes(4) + b"\x2c\x01" * count


def png_of_exif() -> bytes:
    """Turned by an EXIF block of two million fractions, which Pillow writes anew without the orientation."""
    tags, fractions = 10, 200_000
    start = 8 + 2 + 12 * (tags + 1) + 4
    fields = [struct.pack(">HHIHH", 0x0112, 3, 1, 2, 0)]
    fields += [struct.pack(">HHII", 0x9000 + tag, 5, fractions, start + tag * 8 * fractions) for tag in range(tags)]
    block = b"MM\0*" + struct.pack(">IH", 8, len(fields)) + b"".join(fields) + bytes(4)
    return encode(SEVEN, exif=b"Exif\0\0" + block + struct.pack(">II", 1, 3) * (tags * fractions))


SLOW: dict[str, Callable[[], bytes]] = {"bmp of runs": bmp_of_runs, "png of exif": png_of_exif}


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    pictures = [jpeg_of_scans(200_000, Image.new("L", (7000, 7000))), jpeg_of_scans(MAX_SCANS + 1, SEVEN)]
    started = time.process_time()
    for picture in pictures:
        with pytest.raises(ImageError, match="has over 100 scans; progressive ones have some ten") as refusal:
            decode(picture)
        assert refusal.value.status == 400
    assert time.process_time() - started < 1


def test_as_many_scans_as_allowed_are_read() -> None:
    assert decode(jpeg_of_scans(MAX_SCANS, SEVEN)).shape == (28, 28)


def test_scans_of_thumbnails_and_of_what_follows_a_picture_do_not_count() -> None:
    """Phones put a thumbnail into the head and a film behind the end."""
    jpeg, scans = encode(SEVEN, "JPEG"), b"\xff\xda" * 2 * MAX_SCANS
    thumbnail = b"\xff\xe2" + struct.pack(">H", len(scans) + 2) + scans
    assert (decode(jpeg[:2] + thumbnail + jpeg[2:] + scans) == decode(jpeg)).all()


def test_strips_of_a_tiff_cost_no_more_than_their_bytes() -> None:
    picture = tiff_of_strips()
    before, started = psutil.Process().memory_info().rss, time.process_time()
    with suppress(ImageError):
        decode(picture)
    assert time.process_time() - started < 1
    assert psutil.Process().memory_info().rss - before < 2**27


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_picture_is_refused_alone(name: str, handler: DigitHandler, model_dir: Path) -> None:
    context = context_of(model_dir, 3)
    started = time.process_time()
    one, slow, other = handler.handle([{"body": each} for each in (SMOKE[1], SLOW[name](), SMOKE[2])], context)
    assert time.process_time() - started < PICTURE_SECONDS + 1.5
    assert (json.loads(one)["digit"], json.loads(other)["digit"]) == (1, 2)
    assert json.loads(slow) == {
        "code": 413,
        "type": "InvalidImage",
        "message": "the picture takes over 3 s to read; send it smaller or as PNG",
    }


def test_the_time_limit_ends_code_that_catches_every_error_and_no_other_code() -> None:
    def never_ends() -> None:
        while True:
            with suppress(Exception):
                sum(range(1000))

    with pytest.raises(TooLongError), cpu_limit(0.05):
        never_ends()
    with cpu_limit(0.05):
        pass
    until = time.process_time() + 0.2
    while time.process_time() < until:
        sum(range(1000))


@pytest.mark.parametrize("count", [4, pytest.param(48, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_slow_pictures_by_the_dozen_cost_no_worker_and_no_neighbour(count: int, own: Config) -> None:
    """Both workers with batches full of them. Good pictures wait, or are told to ask again, but are not lost."""
    slow = bmp_of_runs()
    with running(own), DigitsClient(own, retries=0, timeout=150) as client, ThreadPoolExecutor(2 * count) as pool:
        workers = {worker.pid for worker in client.default().workers}
        started = time.monotonic()
        sent = [slow, SMOKE[7]] * count
        responses = list(
            pool.map(lambda picture: client.request("inference", "POST", "/predictions/digits", data=picture), sent)
        )
        print(f"{count} slow pictures: the last answer after {time.monotonic() - started:.0f} s")
        assert {each.status_code for each in responses[::2]} <= {413, 503}
        assert {each.status_code for each in responses[1::2]} <= {200, 503}
        late = [each.json() for each in responses if each.status_code == 503]
        assert all(each["type"] == "DeadlineExceeded" for each in late)
        assert count > 4 or not late
        assert {worker.pid for worker in client.default().workers} == workers
        assert client.predict(SMOKE[7]).digit == 7
