"""Predict a shard: read its images in batches and write a Parquet file of predictions. Needs neither torch nor Ray.

The output appears under its name when it is complete. Its metadata has the metrics that a worker of the server would
have counted, from which the summary is made.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

import handler
from bulk.shards import Job, Shard, make_schema, resolve_location
from common.models import ONNX, RECORD
from handler.decoding import MAX_BYTES, ImageError
from handler.image_reader import ImageReader
from handler.metrics import Metrics
from handler.number_reader import SEGMENT_ONNX
from handler.records import ImageRecord

BATCH_ROWS = 64  # images in memory at a time; one may have megabytes
GROUP_ROWS = 10_000  # of a row group of the output
BUFFER_BYTES = 1 << 20  # of a column that is read; without, all images of a row group would be in memory
METRICS_KEY = "digits.metrics"


def score_shard(job: Job, shard: Shard, model_folder: Path = Path()) -> None:
    """Predict a shard with the model in a folder, by default the worker's, and write its output."""
    filesystem, folder = resolve_location(job.output)
    path = f"{folder}/{shard.name}"
    parent, _, name = path.rpartition("/")
    filesystem.create_dir(parent, recursive=True)
    temporary = f"{parent}/.{name}.{uuid4().hex}.tmp"
    try:
        _write_predictions(job, shard, _load_reader(model_folder, job.model_version), temporary)
        filesystem.move(temporary, path)
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(temporary)
        raise


def _write_predictions(job: Job, shard: Shard, reader: ImageReader, path: str) -> None:
    filesystem, _ = resolve_location(job.output)
    batches = _read_images(job, shard) if shard.images else _read_parquet(job, shard)
    schema, metrics, group = next(batches), Metrics(job.model_version), list[pa.RecordBatch]()
    with pq.ParquetWriter(path, schema, filesystem=filesystem, compression="zstd") as writer:
        for carried, images in batches:
            reader.read(images)
            metrics.record_images(images)
            columns = dict(zip(carried.schema.names, carried.columns, strict=True)) | _make_columns(job, images)
            group.append(pa.record_batch([columns[name] for name in schema.names], schema))
            if sum(map(len, group)) >= GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(group))
                group.clear()
        writer.write_table(pa.Table.from_batches(group, schema))
        samples = [sample for family in metrics.registry.collect() for sample in family.samples]
        counts = {json.dumps(sample[:2]): sample.value for sample in samples if not sample.name.endswith("_created")}
        versions = {
            f"digits.{name}": str(getattr(job, name)) for name in ("model_version", "sha256", "program_version")
        }
        writer.add_key_value_metadata(versions | {METRICS_KEY: json.dumps(counts)})


@cache
def _load_reader(folder: Path, version: str) -> ImageReader:
    segment_model = Path(handler.__file__).with_name(SEGMENT_ONNX)
    return ImageReader(folder / ONNX.name, folder / RECORD.name, segment_model, version)


def _read_parquet(job: Job, shard: Shard) -> Iterator[Any]:
    """Yield the schema of the output, then columns to carry along and images, BATCH_ROWS at a time."""
    filesystem, _ = resolve_location(job.input)
    with pq.ParquetFile(shard.source, filesystem=filesystem, buffer_size=BUFFER_BYTES) as file:
        yield make_schema(job, file.schema_arrow)
        for rows in file.iter_batches(BATCH_ROWS):
            images = rows[job.image_column]
            if pa.types.is_struct(images.type):  # as the library datasets writes images
                images = images.field("bytes")
            records = [ImageRecord(image or b"", reads_number=job.reads_numbers) for image in images.to_pylist()]
            yield rows.drop_columns(job.image_column), records


def _read_images(job: Job, shard: Shard) -> Iterator[Any]:
    """Yield the same for images of a folder; their path in it is their id."""
    filesystem, _ = resolve_location(job.input)
    schema = pa.schema([(job.id_column, pa.string())])
    yield make_schema(job, schema.append(pa.field(job.image_column, pa.binary())))
    for start in range(0, len(shard.images), BATCH_ROWS):
        names = shard.images[start : start + BATCH_ROWS]
        records = [_load_image(filesystem, f"{shard.source}/{name}", job.reads_numbers) for name in names]
        yield pa.record_batch([pa.array(names)], schema), records


def _load_image(filesystem: fs.FileSystem, path: str, reads_number: bool) -> ImageRecord:
    try:
        with filesystem.open_input_stream(path) as file:
            return ImageRecord(file.read(MAX_BYTES + 1), reads_number=reads_number)
    except (FileNotFoundError, PermissionError) as error:  # others, such as a failed network, are the shard's
        return ImageRecord(error=ImageError(400, f"cannot be read: {error}"))


def _make_columns(job: Job, images: Sequence[ImageRecord]) -> dict[str, pa.Array]:
    """Return the columns of the predictions, null where an image has an error."""
    rows: list[dict[str, Any]] = []
    for image in images:
        boxes = [digit["box"] for digit in image.prediction.get("digits", [])]
        rows.append({"error": image.error.message} if image.error else image.prediction | {"boxes": boxes})
    return {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in job.fields}
