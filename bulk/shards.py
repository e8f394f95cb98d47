"""Describe a job of bulk prediction and list its shards: Parquet files, or portions of a folder of images."""

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

_DIGIT = [("digit", pa.int8()), ("confidence", pa.float32()), ("accepted", pa.bool_())]
_NUMBER = [("number", pa.string()), ("confidence", pa.float32()), ("accepted", pa.bool_())]
_REST = [("warnings", pa.list_(pa.string())), ("error", pa.string())]
DIGIT_FIELDS = pa.schema([*_DIGIT, ("probabilities", pa.list_(pa.float32())), *_REST])
NUMBER_FIELDS = pa.schema([*_NUMBER, ("boxes", pa.list_(pa.list_(pa.int32()))), *_REST])


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
        return fs.LocalFileSystem(), str(Path(location).absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(location)
    except pa.ArrowException as error:
        raise UserError(f"{location}: {error}") from error
    return filesystem, path


def list_shards(job: Job) -> list[Shard]:
    """List the shards of the input; UserError if there are none, or if a Parquet file lacks a column."""
    filesystem, path = resolve_location(job.input)
    folder, files = _list_files(filesystem, path)
    parquet = [name for name in files if name.endswith(".parquet")]
    if parquet:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(partial(_make_parquet_shard, job, filesystem, folder), parquet))
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    images = [name for name in files if Path(name).suffix.lower() in suffixes]
    if not images:
        raise UserError(f"{job.input}: no Parquet files and no images; expected *.parquet or images such as *.png")
    portions = [tuple(images[start : start + IMAGES_PER_SHARD]) for start in range(0, len(images), IMAGES_PER_SHARD)]
    return [Shard(f"images-{i:05}.parquet", len(names), folder, names) for i, names in enumerate(portions)]


def make_schema(job: Job, source: pa.Schema) -> pa.Schema:
    """Return the schema of an output: id, prediction, other columns; UserError if a column is missing."""
    for option, name in (("--image-column", job.image_column), ("--id-column", job.id_column)):
        if source.names.count(name) != 1:
            raise UserError(f"no column {name}; {option} has to be one of: {', '.join(source.names)}")
    carried = [field for field in source if field.name not in (job.image_column, job.id_column)]
    if taken := sorted({field.name for field in carried} & set(job.fields.names)):
        raise UserError(f"its column {taken[0]} is also a column of the predictions; rename it")
    return pa.schema([source.field(job.id_column), *job.fields, *carried])


def _list_files(filesystem: fs.FileSystem, path: str) -> tuple[str, list[str]]:
    """Return a folder and the files below it that match the pattern `path`, sorted, without hidden ones."""
    folder, pattern = path, "*"
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        fixed = path[: min((path.find(sign) for sign in "*?[" if sign in path), default=len(path))]
        folder = fixed.rpartition("/")[0]
        pattern = path[len(folder) + 1 :]
    found = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True))
    names = (info.path[len(folder) :].lstrip("/") for info in found if info.type == fs.FileType.File)
    visible = (name for name in names if not any(part.startswith((".", "_")) for part in name.split("/")))
    return folder, sorted(name for name in visible if fnmatchcase(name, pattern))


def _make_parquet_shard(job: Job, filesystem: fs.FileSystem, folder: str, name: str) -> Shard:
    path = f"{folder}/{name}"
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            make_schema(job, file.schema_arrow)
            return Shard(name, file.metadata.num_rows, path)
    except (UserError, pa.ArrowException) as error:
        raise UserError(f"{path}: {error}") from error
