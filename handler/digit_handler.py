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

from handler.correlation import CORRELATION, Marked, marked
from handler.description import description
from handler.explanation import attribution
from handler.metrics import Metrics
from handler.preprocessing import (
    Framed,
    Grey,
    ImageError,
    Source,
    examine,
    examine_grey,
    plain_png,
    plain_source,
    read_picture,
)
from handler.reader import CALL, Reader
from handler.request_log import RequestLog
from handler.seen import Seen, Served
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
        self.metrics, self.log = Metrics(self.reader.version), RequestLog.by_environment()  # last: it has loaded
        logging.getLogger().setLevel(logging.WARNING)  # TorchServe's worker logs a line for every batch
        otf_message_handler._retrieve_buffer = _buffered()

    def handle(self, rows: Sequence[Row], context: Any) -> list[bytes]:
        """One answer a row, in order; sets status and content type of each."""
        begun = time.perf_counter()
        headers = [context.get_all_request_header(index) for index in range(len(rows))]
        marks = [_marked(context, index, each) for index, each in enumerate(headers)]
        sent = [_sent(row, each) for row, each in zip(rows, headers, strict=True)]
        served = [self._served(*each) for each in zip(sent, self._seen(sent), strict=True)]
        answers = [_respond(context, index, each) for index, each in enumerate(served)]
        self._tell(served, marks, context, time.perf_counter() - begun)
        return answers

    def _seen(self, sent: list[Sent]) -> list[list[Seen]]:
        """The pictures of each row, read, framed and answered as far as they can be."""
        turns, seen = list(_in_turn(sent)), list[Seen]()
        answers = iter(self.reader.timed_answers(_framed_groups(sent, turns, seen)))
        pictures: list[list[Seen]] = [[] for _ in sent]
        for (row, _), each in zip(turns, seen, strict=True):
            if isinstance(each.outcome, Framed):
                each.told, each.inference = next(answers)
            elif isinstance(each.outcome, ImageError):
                each.told = _refusal(each.outcome)
            pictures[row].append(each)
        return pictures

    def _served(self, sent: Sent, pictures: list[Seen]) -> Served:
        size = sum(len(picture) for picture in sent.pictures if isinstance(picture, bytes))
        return Served(sent.kind, pictures, *self._response(sent, pictures), size)

    def _response(self, sent: Sent, pictures: list[Seen]) -> tuple[int, str, str]:
        """Status, content type and body, for a row's pictures and what is told of each."""
        if sent.kind == "description":
            return 200, JSON, json.dumps(self.description)
        if sent.kind == "digits":
            return 200, JSON, json.dumps({"predictions": [seen.told for seen in pictures]})
        [seen] = pictures
        if isinstance(seen.outcome, ImageError):
            return seen.outcome.status, JSON, json.dumps(seen.told)
        if sent.plain:
            return 200, "text/plain", str(seen.told["digit"])
        if sent.kind == "explanation" and isinstance(seen.outcome, Framed):
            return self._explained(seen, seen.outcome, sent.target)
        return 200, JSON, json.dumps(seen.told)

    def _explained(self, seen: Seen, framed: Framed, target: int | None) -> tuple[int, str, str]:
        digit = seen.told["digit"]
        asked = digit if target is None else target
        try:
            values = attribution(self.scripted, self.reader.calibration, framed.frame, asked)
        except Exception as error:
            seen.outcome = failed = _unforeseen(error)
            return failed.status, JSON, json.dumps(_refusal(failed))
        told = {"digit": digit, "target": asked, "attribution": values.tolist(), "framed": framed.frame.tolist()}
        return 200, JSON, json.dumps(told)

    def _tell(self, served: list[Served], marks: list[Marked], context: Any, seconds: float) -> None:
        """Counts and logs the rows that are no probes."""
        told = []
        try:
            for index, (each, mark) in enumerate(zip(served, marks, strict=True)):
                if mark.is_probe:
                    self.metrics.probes.inc()
                    continue
                each.request_id, each.correlation = context.get_request_id(index), mark.correlation
                told.append(each)
            self.metrics.record(told, seconds)
            self.log.write(told, seconds, self.reader.version)
        except Exception:  # whatever it is, memory for instance, the answers are there
            logging.exception("a batch is not counted or logged")


def _buffered() -> Callable[[socket, int], bytes]:
    """For the place of TorchServe's function, which asks the system for each field: four times a header, ten more."""
    reading = cache(lambda connection: connection.makefile("rb", MESSAGE_BYTES).read)

    def retrieve(connection: socket, length: int) -> bytes:
        data: bytes = reading(connection)(max(length, 0))  # of a negative length TorchServe's reads nothing
        if len(data) < length:
            sys.exit(0)  # as TorchServe's does: the server is gone
        return data

    return retrieve


def _marked(context: Any, index: int, headers: Headers) -> Marked:
    """What a row's headers say of it; its answer is given what the sender wants to know it by."""
    found = marked(headers)
    if found.correlation:
        context.set_response_header(index, CORRELATION, found.correlation)
    return found


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
    sent: list[Sent], turns: list[tuple[int, bytes | ImageError]], seen: list[Seen]
) -> Iterator[list[Framed]]:
    """The pictures that can be answered, up to CALL of the turns at a time; adds what became of each to seen.

    First all of a group are read, then all are framed: code that is warm is fast.
    """
    started = time.monotonic()
    timed = [(picture, started + _limit(sent[row])) for row, picture in turns]
    while len(seen) < len(timed):
        start = len(seen)
        ahead = list(_read_ahead(timed[start : start + CALL]))
        seen += [_framed(read, until) for read, until in ahead]
        yield [each.outcome for each in seen[start:] if isinstance(each.outcome, Framed)]


def _limit(sent: Sent) -> float:
    return BULK_SECONDS if sent.kind == "digits" else BATCH_SECONDS


def _read_ahead(timed: list[tuple[bytes | ImageError, float]]) -> Iterator[tuple[Seen, float]]:
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


def _read(picture: bytes | ImageError, until: float) -> Seen:
    if late := _late(until):
        return Seen(late)
    if isinstance(picture, ImageError):
        return Seen(picture)
    begun = time.perf_counter()
    outcome, source = _decoded(picture)
    return Seen(outcome, source, time.perf_counter() - begun)


def _decoded(picture: bytes) -> tuple[Grey | ImageError, Source | None]:
    try:
        plain = plain_png(picture)  # quick, whatever is in it: the time limit would cost half as much again
        if plain is not None:
            return plain, plain_source(plain)
        return limited(PICTURE_SECONDS, read_picture, picture)
    except ImageError as error:
        return _bare(error), error.source
    except TooLongError:
        return ImageError(413, f"the picture takes over {PICTURE_SECONDS:g} s to read; send it smaller or as PNG"), None
    except Exception as error:
        return _unforeseen(error), None


def _framed(seen: Seen, until: float) -> Seen:
    """What was read, in its frame now or refused."""
    grey = seen.outcome
    if isinstance(grey, ImageError | Framed):
        return seen
    if late := _late(until):
        seen.outcome = late
        return seen
    begun = time.perf_counter()
    seen.outcome = _frame(grey)
    seen.framing = time.perf_counter() - begun
    return seen


def _frame(grey: Grey) -> Framed | ImageError:
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


def _respond(context: Any, index: int, served: Served) -> bytes:
    """Sets the row's status and content type; bytes, because TorchServe would indent a dict."""
    context.set_response_status(served.status, HTTPStatus(served.status).phrase, index)
    context.set_response_content_type(index, served.content_type)
    return served.body.encode()
