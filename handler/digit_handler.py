"""TorchServe's entry: request rows in, one answer or refusal a row out. Exactly one class, as TorchServe wants."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from http import HTTPStatus
from pathlib import Path
from socket import socket
from typing import Any

import cv2
import torch
from ts.protocol import otf_message_handler

from handler.correlation import CORRELATION, correlation
from handler.description import description
from handler.explanation import attribution
from handler.preprocessing import Framed, Grey, ImageError, examine, examine_grey, plain_png, read_grey
from handler.reader import CALL, Reader
from handler.sent import Headers, InternalError, LateError, Row, Sent, read
from handler.time_limit import TooLongError, limited

PICTURE_SECONDS = 5.0  # of CPU, for reading one; the slowest of 50 million pixels that are no attack take 2
# For reading a batch. Calls of many wait for the one before and for their own, clients for 10 s, TorchServe for 60.
BULK_SECONDS, BATCH_SECONDS = 3.0, 30.0
AHEAD_SECONDS = 0.25  # of reading; then what was read is framed, so that of many photos some are answered in time
MESSAGE_BYTES = 1 << 16  # of TorchServe's to a worker, read at once: more than a batch of small pictures has
JSON = "application/json"


class DigitHandler:
    """Answers a batch with one model call; a picture that cannot be read fails alone, with its own status."""

    def initialize(self, context: Any) -> None:
        """Loads the scripted model of the archive, optimises it and answers the smoke pictures once."""
        torch.set_num_threads(1)  # each worker has one core's work; more threads only fight each other
        cv2.setNumThreads(1)
        folder = Path(context.system_properties["model_dir"])
        model = context.manifest["model"]
        scripted, record = folder / model["serializedFile"], folder / "model.json"
        self.scripted = torch.jit.load(str(scripted), map_location="cpu").eval()  # as explanations ask it
        self.reader = Reader(scripted, record, model["modelVersion"])
        self.description = description(self.reader.version, json.loads(record.read_text()))
        smoke = [examine(path.read_bytes()) for path in sorted((folder / "handler" / "smoke").glob("*.png"))]
        self.reader.warm_up(smoke, context.system_properties["batch_size"])
        logging.getLogger().setLevel(logging.WARNING)  # TorchServe's worker logs a line for every batch
        otf_message_handler._retrieve_buffer = _buffered()

    def handle(self, rows: Sequence[Row], context: Any) -> list[bytes]:
        """One answer a row, in order; sets status and content type of each."""
        sent = [_sent(row, _headers(context, index)) for index, row in enumerate(rows)]
        turns, examined = list(_in_turn(sent)), list[Framed | ImageError]()
        answers = iter(self.reader.answers(_framed_groups(sent, turns, examined)))
        pictures: list[list[tuple[Framed | ImageError, dict[str, Any]]]] = [[] for _ in sent]
        for (row, _), picture in zip(turns, examined, strict=True):
            pictures[row].append((picture, next(answers) if isinstance(picture, Framed) else _refusal(picture)))
        return [_respond(context, index, *self._response(sent[index], pictures[index])) for index in range(len(sent))]

    def _response(self, sent: Sent, pictures: list[tuple[Framed | ImageError, dict[str, Any]]]) -> tuple[int, str, str]:
        """Status, content type and body, for a row's pictures and what is told of each."""
        if sent.kind == "description":
            return 200, JSON, json.dumps(self.description)
        if sent.kind == "digits":
            return 200, JSON, json.dumps({"predictions": [told for _, told in pictures]})
        [(picture, told)] = pictures
        if isinstance(picture, ImageError):
            return picture.status, JSON, json.dumps(told)
        if sent.plain:
            return 200, "text/plain", str(told["digit"])
        if sent.kind == "explanation":
            return self._explained(picture, told["digit"], sent.target)
        return 200, JSON, json.dumps(told)

    def _explained(self, picture: Framed, digit: int, target: int | None) -> tuple[int, str, str]:
        asked = digit if target is None else target
        try:
            values = attribution(self.scripted, self.reader.calibration, picture.frame, asked)
        except Exception as error:
            failed = _unforeseen(error)
            return failed.status, JSON, json.dumps(_refusal(failed))
        told = {"digit": digit, "target": asked, "attribution": values.tolist(), "framed": picture.frame.tolist()}
        return 200, JSON, json.dumps(told)


def _buffered() -> Callable[[socket, int], bytes]:
    """For the place of TorchServe's function, which asks the system for each field: four times a header, ten more."""
    reading = cache(lambda connection: connection.makefile("rb", MESSAGE_BYTES).read)

    def retrieve(connection: socket, length: int) -> bytes:
        data: bytes = reading(connection)(max(length, 0))  # of a negative length TorchServe's reads nothing
        if len(data) < length:
            sys.exit(0)  # as TorchServe's does: the server is gone
        return data

    return retrieve


def _headers(context: Any, index: int) -> Headers:
    """Of a row, whose answer is given what the sender wants to know it by."""
    headers: Headers = context.get_all_request_header(index)
    if wanted := correlation(headers):
        context.set_response_header(index, CORRELATION, wanted)
    return headers


def _sent(row: Row, headers: Headers) -> Sent:
    """What the row asks for; where that cannot be told, a picture that is refused with the reason."""
    try:
        return read(row, headers)
    except ImageError as error:
        return Sent("digit", [_bare(error)])
    except Exception as error:
        return Sent("digit", [_unforeseen(error)])


def _in_turn(sent: list[Sent]) -> Iterator[tuple[int, bytes | ImageError]]:
    """Row and picture: all rows' first ones, then their second ones, so that few do not wait for many."""
    for turn in range(max((len(each.pictures) for each in sent), default=0)):
        for row, each in enumerate(sent):
            if turn < len(each.pictures):
                yield row, each.pictures[turn]


def _framed_groups(
    sent: list[Sent], turns: list[tuple[int, bytes | ImageError]], examined: list[Framed | ImageError]
) -> Iterator[list[Framed]]:
    """The pictures that can be answered, up to CALL of the turns at a time; adds each, or why it is none, to examined.

    First all of a group are read, then all are framed: code that is warm is fast.
    """
    started = time.monotonic()
    timed = [(picture, started + _limit(sent[row])) for row, picture in turns]
    while len(examined) < len(timed):
        start = len(examined)
        ahead = list(_read_ahead(timed[start : start + CALL]))
        examined += [_framed(grey, until) for grey, until in ahead]
        yield [picture for picture in examined[start:] if isinstance(picture, Framed)]


def _limit(sent: Sent) -> float:
    return BULK_SECONDS if sent.kind == "digits" else BATCH_SECONDS


def _read_ahead(timed: list[tuple[bytes | ImageError, float]]) -> Iterator[tuple[Grey | ImageError, float]]:
    """The first of the pictures, until AHEAD_SECONDS are over."""
    begun = time.monotonic()
    for picture, until in timed:
        yield _read(picture, until), until
        if time.monotonic() > begun + AHEAD_SECONDS:
            return


def _late(until: float) -> LateError | None:
    if time.monotonic() <= until:
        return None
    return LateError(503, "not read: its batch's time went into pictures before it; ask again, for fewer at a time")


def _read(picture: bytes | ImageError, until: float) -> Grey | ImageError:
    if late := _late(until):
        return late
    if isinstance(picture, ImageError):
        return picture
    try:
        plain = plain_png(picture)  # quick, whatever is in it: the time limit would cost half as much again
        return limited(PICTURE_SECONDS, read_grey, picture) if plain is None else plain
    except ImageError as error:
        return _bare(error)
    except TooLongError:
        return ImageError(413, f"the picture takes over {PICTURE_SECONDS:g} s to read; send it smaller or as PNG")
    except Exception as error:
        return _unforeseen(error)


def _framed(grey: Grey | ImageError, until: float) -> Framed | ImageError:
    if isinstance(grey, ImageError):
        return grey
    if late := _late(until):
        return late
    try:
        return examine_grey(grey)
    except ImageError as error:
        return _bare(error)
    except Exception as error:
        return _unforeseen(error)


def _bare(error: ImageError) -> ImageError:
    """Without the frames that it came through: they would hold pictures in memory until their batch is done."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _unforeseen(error: Exception) -> ImageError:
    """Whatever it is, memory for instance, it must not reach the row's neighbours."""
    logging.exception("a picture failed unexpectedly")
    return InternalError(500, f"the picture could not be processed: {type(error).__name__}")


def _refusal(error: ImageError) -> dict[str, Any]:
    return {"code": error.status, "type": error.type, "message": error.message}


def _respond(context: Any, index: int, status: int, content_type: str, body: str) -> bytes:
    """Sets the row's status and content type; bytes, because TorchServe would indent a dict."""
    context.set_response_status(status, HTTPStatus(status).phrase, index)
    context.set_response_content_type(index, content_type)
    return body.encode()
