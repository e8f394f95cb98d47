"""Workloads: images, images per request, number of connections, duration."""

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2

from digits_client.encoding import encode_batch
from training.data import load_raw_images

PATH = "/predictions/digits"
JSON = "application/json"
IMAGES = 500  # distinct images
OPEN_LOOP_RATIO = 0.7  # request rate, as a share of the server's maximum throughput

Body = tuple[bytes, str]  # body, Content-Type
Encode = Callable[[bytes], Body]  # encodes an image as a server expects it


@dataclass(frozen=True)
class Workload:
    """A closed loop; if `is_open`, an open loop at OPEN_LOOP_RATIO of the server's maximum throughput."""

    name: str
    connections: int
    seconds: int
    images: int = 1  # per request
    is_open: bool = False


WARM_UP = Workload("warm-up", 64, 15)  # enough for most of Java's C2 compilation
ALONE = Workload("1 connection", 1, 5)
FEW = Workload("8 connections", 8, 6)
MANY = Workload("64 connections", 64, 8)
FLOOD = Workload("256 connections", 256, 10)
BULK = Workload("batch requests, 4 connections", 4, 6, images=64)
OPEN = Workload("open loop", 64, 15, is_open=True)
WORKLOADS = (ALONE, FEW, MANY, FLOOD, BULK, OPEN)  # the open loop last: it needs the maximum throughput


@cache
def load_images() -> list[bytes]:
    """Return IMAGES digits of mnist5k as PNGs of 28x28 pixels."""
    arrays, _ = load_raw_images("mnist5k")
    step = len(arrays) // IMAGES
    return [cv2.imencode(".png", array)[1].tobytes() for array in arrays[::step][:IMAGES]]


def encode_raw(image: bytes) -> Body:
    """Return the unchanged image as the body."""
    return image, "image/png"


def encode_base64(image: bytes) -> Body:
    """Return the image as LitServe expects it, `{"b64": "..."}`."""
    return json.dumps({"b64": b64encode(image).decode()}).encode(), JSON


def write_requests(path: Path, images: int, encode: Encode, headers: dict[str, str]) -> None:
    """Write a workload's HTTP requests for load_test.lua, every one after a line with its length in bytes."""
    loaded = load_images()
    if images == 1:
        bodies = [encode(image) for image in loaded]
    else:
        bodies = [(encode_batch(loaded[start : start + images]), JSON) for start in range(0, IMAGES - images, images)]
    with path.open("wb") as file:
        for body, content_type in bodies:
            fields = {"Host": "127.0.0.1", "Content-Length": len(body), "Content-Type": content_type} | headers
            head = f"POST {PATH} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields.items())
            request = head.encode() + b"\r\n" + body
            file.write(b"%d\n%b" % (len(request), request))
