"""Read images for TorchServe's handler and for bulk prediction: decode, frame and classify them, or read their numbers.

Without a scripted model it needs neither torch nor TorchServe: the requirements are in requirements-reader.txt.
"""

import math
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import cv2

from handler.classifier import MODEL_BATCH_SIZE, Classifier
from handler.decoding import ImageError
from handler.number_reader import NumberReader
from handler.preprocessing import (
    frame_gray_with_warnings,
    frame_with_warnings,
    load_gray,
    load_plain_png,
    load_with_pillow,
    segment_number,
)
from handler.records import DeadlineExceededError, ImageRecord, InternalError
from handler.time_limit import CpuLimitError, run_with_cpu_limit

IMAGE_CPU_SECONDS = 5.0  # to decode one image; the slowest intact images of 50 million pixels take 2


class ImageReader:
    """Fills in the predictions, or the errors, of images; an invalid image gets its own error."""

    def __init__(self, model: Path, record_path: Path, segment_model: Path, version: str) -> None:
        cv2.setNumThreads(1)  # every process has one core; more threads would only compete for it
        self.classifier = Classifier(model, record_path, version)
        self.numbers = NumberReader.load(self.classifier, segment_model)

    def warm_up(self, images: Collection[bytes], batch_size: int) -> None:
        """Call the models as `read` does with up to `batch_size` images: the first calls of scripted ones are slow."""
        self.classifier.warm_up([frame_with_warnings(image) for image in images], batch_size)
        for image in images:
            self.numbers.read(segment_number(*load_gray(image)))

    def read(self, images: Sequence[ImageRecord]) -> None:
        """Decode, frame and classify images, or read their numbers."""
        for image in images:
            self.decode_and_frame(image)
        self.classify(images)

    def decode_and_frame(self, image: ImageRecord, deadline: float = math.inf) -> None:
        """Fill in the image's frame, or the number that it shows, or its error if anything goes wrong."""
        if image.error:
            return
        if time.monotonic() > deadline:
            message = "not read: the images before it used up the batch's time; send it again, fewer at a time"
            image.error = DeadlineExceededError(503, message)
            return
        try:
            self._decode_and_frame_timed(image)
        except ImageError as error:
            image.info = image.info or error.info
            image.error = error.drop_traceback()
        except CpuLimitError:
            message = f"the image takes over {IMAGE_CPU_SECONDS:g} s to read; send it smaller or as PNG"
            image.error = ImageError(413, message)
        except Exception as error:
            image.error = InternalError.from_exception(error)

    def _decode_and_frame_timed(self, image: ImageRecord) -> None:
        started = time.perf_counter()
        try:
            plain = load_plain_png(image.content)  # without the limit, which would add half to its time
            gray, image.info = plain or run_with_cpu_limit(IMAGE_CPU_SECONDS, load_with_pillow, image.content)
        finally:
            image.decode_seconds = time.perf_counter() - started
        started = time.perf_counter()
        number = None
        try:
            if image.reads_number:
                number = segment_number(gray, image.info)
            else:
                image.framed = frame_gray_with_warnings(gray)
        finally:
            image.framing_seconds = time.perf_counter() - started
        if number:
            started = time.perf_counter()
            image.prediction = self.numbers.read(number)
            image.inference_seconds = time.perf_counter() - started

    def classify(self, images: Iterable[ImageRecord]) -> None:
        """Fill in the predictions of the images that have a frame."""
        framed = [image for image in images if image.framed]
        for start in range(0, len(framed), MODEL_BATCH_SIZE):
            batch = framed[start : start + MODEL_BATCH_SIZE]
            started = time.perf_counter()
            predictions = self.classifier.predict([image.framed for image in batch if image.framed])
            seconds = time.perf_counter() - started
            for image, prediction in zip(batch, predictions, strict=True):
                image.prediction, image.inference_seconds = prediction, seconds
