"""Describe a job of bulk prediction and list its shards: Parquet files, or portions of a folder of images."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pyarrow import fs

from common.errors import UserError
from handler.decoding import FORMATS

IMAGES_PER_SHARD = 10_000  # of a folder of images
THREADS = 16  # that read the metadata of files

_DECISION = [("confidence", pa.float32()), ("accepted", pa.bool_())]
_REST = [("warnings", pa.list_(pa.string())), ("error", pa.string())]
DIGIT_FIELDS = pa.schema([("digit", pa.int8()), *_DECISION, ("probabilities", pa.list_(pa.float32())), *_REST])
NUMBER_FIELDS = pa.schema([("number", pa.string()), *_DECISION, ("boxes", pa.list_(pa.list_(pa.int32()))), *_REST])


@dataclass(frozen=True)
class Job:
    """What determines the predictions, and where they go; URLs or absolute paths."""

    input: str
    output: str
    image_column: str
    id_column: str
    reads_numbers: bool
    model_version: str  # id of the training run
    sha256: str  # of the models' files
    program_version: str

    @property
    def fields(self) -> pa.Schema:
        return NUMBER_FIELDS if self.reads_numbers else DIGIT_FIELDS


@dataclass(frozen=True)
class Shard:
    """A Parquet file, or images of a folder; paths on the input's file system, relative to it for images."""

    name: str  # of the output, relative to its folder
    rows: int
    source: str
    images: tuple[str, ...] = ()


def resolve_location(location: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URL or path, and the path on it; UserError if pyarrow knows none."""
    if "://" not in location:
        return fs.LocalFileSystem(), os.path.normpath(Path(location).absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except pa.ArrowException as error:
        raise UserError(f"{location}: {error}") from error
    return filesystem, path.rstrip("/")


def list_shards(job: Job) -> list[Shard]:
    """List the shards of the input; UserError if there are none, or if a Parquet file lacks a column."""
    filesystem, path = resolve_location(job.input)
    folder, files = _list_files(filesystem, path)
    parquet = [name for name in files if name.endswith(".parquet")]
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    images = [name for name in files if Path(name).suffix.lower() in suffixes]
    if not parquet and not images:
        raise UserError(f"{job.input}: no Parquet files and no images; expected *.parquet or images such as *.png")
    if parquet and images:
        raise UserError(f"{job.input}: Parquet files and images; choose one kind by a pattern such as '*.parquet'")
    if parquet:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(partial(_make_parquet_shard, job, filesystem, folder), parquet))
    portions = [tuple(images[start : start + IMAGES_PER_SHARD]) for start in range(0, len(images), IMAGES_PER_SHARD)]
    return [Shard(f"images-{i:05}.parquet", len(names), folder, names) for i, names in enumerate(portions)]


def make_schema(job: Job, source: pa.Schema) -> pa.Schema:
    """Return the schema of an output: id, prediction, other columns; UserError if a column is missing."""
    for option, name in (("--image-column", job.image_column), ("--id-column", job.id_column)):
        if source.names.count(name) != 1:
            raise UserError(f"no column {name}; {option} has to be one of: {', '.join(source.names)}")
    images = source.field(job.image_column).type
    if not any(has_type(images) for has_type in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct)):
        raise UserError(f"column {job.image_column} is {images}; expected binary, or a struct with a field bytes")
    carried = [field for field in source if field.name != job.image_column and field.name != job.id_column]
    if taken := sorted({job.id_column, *(field.name for field in carried)} & set(job.fields.names)):
        raise UserError(f"column {taken[0]} is also one of the predictions; rename it")
    return pa.schema([source.field(job.id_column), *job.fields, *carried])


def _list_files(filesystem: fs.FileSystem, path: str) -> tuple[str, list[str]]:
    """Return a folder and the files below it, or those that match a pattern; sorted, without hidden ones."""
    folder, pattern, info = path, list[str](), filesystem.get_file_info(path)
    if info.type == fs.FileType.File:
        return path.rpartition("/")[0], [info.base_name]
    if info.type != fs.FileType.Directory:
        folder = path[: min((path.find(sign) for sign in "*?[" if sign in path), default=0)].rpartition("/")[0]
        pattern = path[len(folder) + 1 :].split("/")
        if not folder:
            return path, []
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=len(pattern) != 1))
    names = [info.path[len(folder) + 1 :].split("/") for info in found if info.type == fs.FileType.File]
    visible = [parts for parts in names if not any(part.startswith((".", "_")) for part in parts)]
    return folder, sorted("/".join(parts) for parts in visible if not pattern or _is_match(parts, pattern))


def _is_match(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _make_parquet_shard(job: Job, filesystem: fs.FileSystem, folder: str, name: str) -> Shard:
    path = f"{folder}/{name}"
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            make_schema(job, file.schema_arrow)
            return Shard(name, file.metadata.num_rows, path)
    except (UserError, pa.ArrowException) as error:
        raise UserError(f"{path}: {error}") from error
