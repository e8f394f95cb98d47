"""What servers are asked: which pictures, how many at once, for how long."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.photo import photo
from evaluation.sets import png
from serving.pictures import instances
from training.data import raw_pictures

SEED = 6  # of the photos
PICTURES = 500  # different PNGs
PHOTOS, PHOTO_SIZE = 5, (4000, 3000)  # different JPEGs, and their width and height: 12 megapixels
SENSOR_NOISE = 3.0  # grey levels, sigma
ONE_PHOTO_IN = 20  # pictures of the mix
BULK = 64  # pictures of one JSON body
JSON = "application/json"
PATH = "/predictions/digits"


@dataclass(frozen=True)
class Load:
    """`kind` is png, mix or bulk. With a rate, in requests a second, an open loop."""

    name: str
    kind: str
    connections: int
    seconds: float
    rate: float | None = None

    @property
    def pictures(self) -> int:
        """Of one request."""
        return BULK if self.kind == "bulk" else 1


def _singles(seconds: float, *connections: int) -> list[Load]:
    return [Load(str(each), "png", each, seconds) for each in connections]


ALONE, FEW, MANY = "1", "8", "64"  # connections of single PNGs
MIX, BULKS, OPEN, FLOOD, COST = "mix", "bulk", "open loop", "flood", "cost"
LOADS = [*_singles(8, 1, 8, 32, 64, 256), Load(MIX, "mix", 8, 8), Load(BULKS, "bulk", 4, 8)]
QUICK_LOADS = [*_singles(3, 1, 8, 64), Load(BULKS, "bulk", 4, 3)]
FLOODS = Load(FLOOD, "png", 256, 30)
COSTS = Load(COST, "png", 64, 10)
WARM_UP = [Load("warm-up", "png", 64, 20), Load("warm-up", "bulk", 4, 3)]  # so long Java's second compiler is at work
QUICK_WARM_UP = [Load("warm-up", "png", 64, 2), Load("warm-up", "bulk", 4, 1)]
OPEN_SECONDS, OPEN_SHARE = 60.0, 0.7  # of the peak


def open_loop(peak: float) -> Load:
    """At OPEN_SHARE of a server's peak, in requests a second."""
    return Load(OPEN, "png", 64, OPEN_SECONDS, OPEN_SHARE * peak)


Body = tuple[bytes, str]  # with its Content-Type
Wrap = Callable[[bytes], Body]  # of one picture, as a server takes it


def as_sent(picture: bytes) -> Body:
    """The picture itself, as the body."""
    return picture, "image/jpeg" if picture.startswith(b"\xff\xd8") else "image/png"


@cache
def pngs() -> list[bytes]:
    """Digits of 28x28 pixels."""
    greys, _ = raw_pictures("mnist5k")
    return [png(grey) for grey in greys[:: len(greys) // PICTURES][:PICTURES]]


@cache
def photos() -> list[bytes]:
    """JPEGs of 12 megapixels, each of a digit written on paper."""
    greys, _ = raw_pictures("mnist5k")
    random = np.random.default_rng(SEED)
    return [_large(photo(grey, random), random) for grey in greys[:: len(greys) // PHOTOS][:PHOTOS]]


def _large(jpeg: bytes, random: np.random.Generator) -> bytes:
    """The photo in a camera's size, with a sensor's noise anew: without it the file would have a fifth of the bytes."""
    with Image.open(BytesIO(jpeg)) as image:
        large = np.asarray(image.resize(PHOTO_SIZE, Image.Resampling.BICUBIC), np.float32)
    noise = random.standard_normal((*large.shape[:2], 1), np.float32) * SENSOR_NOISE
    file = BytesIO()
    Image.fromarray(np.clip(large + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_requests(folder: Path, kind: str, wrap: Wrap, headers: dict[str, str]) -> Path:
    """Writes raw requests, and a list of their files in the order in which they are sent; returns the list."""
    folder.mkdir(parents=True)
    paths: dict[bytes, Path] = {}
    for body, content_type in dict.fromkeys(bodies := _bodies(kind, wrap)):
        paths[body] = folder / str(len(paths))
        paths[body].write_bytes(_request(body, headers | {"Content-Type": content_type}))
    listed = folder / "list"
    listed.write_text("".join(f"{paths[body]}\n" for body, _ in bodies))
    return listed


def _bodies(kind: str, wrap: Wrap) -> list[Body]:
    if kind == "bulk":
        rows = [pngs()[start : start + BULK] for start in range(0, PICTURES - BULK, BULK)]
        return [(instances(row), JSON) for row in rows]
    bodies = [wrap(picture) for picture in pngs()]
    if kind == "mix":
        large = islice(cycle([wrap(picture) for picture in photos()]), len(range(0, PICTURES, ONE_PHOTO_IN)))
        bodies[::ONE_PHOTO_IN] = large
    return bodies


def _request(body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
