"""The command `score`: predict the shards that are not done as Ray tasks, then print the summary.

Tasks, not actors: Ray repeats a task on any free core if its worker or node dies, and uses nodes that join later, while
the actors of a dead node would wait for another one. A worker process keeps its reader from task to task.
"""

import hashlib
import json
import os
import secrets
import sys
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSelector

import bulk
import common
import handler
from bulk.scoring import score_shard
from bulk.shards import THREADS, Job, Shard, list_shards, resolve_location
from bulk.summary import format_summary, plot_summary, read_metrics, summarize
from common.command_line import show_progress
from common.errors import UserError
from common.models import MODEL_FOLDERS, ONNX, RECORD
from handler.number_reader import SEGMENT_ONNX, SEGMENT_RECORD

JOB_FILE, SUMMARY_FILE, PICTURE_FILE = "_job.json", "_summary.json", "_summary.png"  # readers of Parquet ignore `_`
TASKS_PER_CORE = 2  # submitted at a time, so that no core waits
OBJECT_STORE_BYTES = 100 << 20  # nearly Ray's minimum; tasks exchange next to nothing


def run_score(args: Namespace) -> int:
    """Run the command `score`; return 1 if a file failed."""
    handler_folder = Path(handler.__path__[0])
    folder = handler_folder.parent / MODEL_FOLDERS[args.model]
    if not (folder / ONNX).is_file():
        raise UserError(f"{folder / ONNX} is missing; `python -m training export-onnx --model {args.model}` writes it")
    record = json.loads((folder / RECORD).read_text())
    models = [folder / ONNX, folder / RECORD, handler_folder / SEGMENT_ONNX, handler_folder / SEGMENT_RECORD]
    job = Job(
        input=_locate(args.input),
        output=_locate(args.output),
        image_column=args.image_column,
        id_column=args.id_column,
        reads_numbers=args.number,
        model_version=str(record.get("run_id")),
        sha256=hashlib.sha256(b"".join(path.read_bytes() for path in models)).hexdigest(),
        program_version=handler.__version__,
    )
    shards = list_shards(job)
    _open_output(job, shards)
    total, todo, failures = Counter[str](), list[Shard](), 0
    with ThreadPoolExecutor(THREADS) as pool:
        for shard, metrics in zip(shards, pool.map(partial(read_metrics, job), shards), strict=True):
            total.update(metrics or {})
            todo += [shard] if metrics is None else []
    if todo:
        print(f"{len(todo):,} of {len(shards):,} files to predict", file=sys.stderr)
        with _connect_ray(args.address or os.environ.get("RAY_ADDRESS"), folder / ONNX.parent):
            for shard, failure in _run_tasks(job, todo):
                metrics = read_metrics(job, shard)
                if failure or metrics is None:
                    failures += 1
                    reason = failure or "is not in OUTPUT, which all nodes have to share"
                    print(f"error: {shard.name}: {reason}", file=sys.stderr)
                total.update(metrics or {})
    summary = summarize(job, total, record.get("reference", {}).get("shares", {}))
    _write_file(job.output, SUMMARY_FILE, f"{json.dumps(summary, indent=2)}\n".encode())
    _write_file(job.output, PICTURE_FILE, plot_summary(summary))
    print(format_summary(summary))
    if failures:
        print(f"error: {failures:,} files failed; the same command tries them again", file=sys.stderr)
    return int(failures > 0)


def _locate(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


def _open_output(job: Job, shards: Sequence[Shard]) -> None:
    """Create the output folder, or check that an equal job started it; remove what killed tasks left."""
    filesystem, folder = resolve_location(job.output)
    if f"{folder}/".startswith(f"{resolve_location(job.input)[1]}/"):
        raise UserError(f"{job.output}: is in INPUT; choose a folder outside")
    filesystem.create_dir(folder, recursive=True)
    found = {info.path: info.base_name for info in filesystem.get_file_info(FileSelector(folder, recursive=True))}
    left = [path for path, name in found.items() if name.startswith(".") and name.endswith(".tmp")]
    options = {name: value for name, value in asdict(job).items() if name != "output"}
    images = "\n".join(name for shard in shards for name in shard.images)  # shards depend on the names of all
    options["image_list_sha256"] = hashlib.sha256(images.encode()).hexdigest()
    if f"{folder}/{JOB_FILE}" in found:
        with filesystem.open_input_stream(f"{folder}/{JOB_FILE}") as file:
            started = json.loads(file.read())
        for name, value in options.items():
            if value != started.get(name):
                change = f"{name} {started.get(name)}, now it is {value}"
                raise UserError(f"{job.output}: was started with {change}; choose another OUTPUT")
    elif found.keys() - {*left}:
        raise UserError(f"{job.output}: is not empty; expected a new folder, or one that this command started")
    else:
        _write_file(job.output, JOB_FILE, f"{json.dumps(options, indent=2)}\n".encode())
    for path in left:
        filesystem.delete_file(path)


def _write_file(location: str, name: str, content: bytes) -> None:
    """Write a file of a folder under another name, then rename it."""
    filesystem, folder = resolve_location(location)
    with filesystem.open_output_stream(f"{folder}/.{name}.tmp") as file:
        file.write(content)
    filesystem.move(f"{folder}/.{name}.tmp", f"{folder}/{name}")


@contextmanager
def _connect_ray(address: str | None, model_folder: Path) -> Iterator[None]:
    """Connect to a cluster or, without an address, start a Ray on 127.0.0.1 that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temporary:
        options: dict[str, Any] = {"address": address}
        if address in (None, "", "local"):
            # Ray reads these when it is imported. The first makes it bind to 127.0.0.1, on Linux as well.
            os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            options = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": temporary}
        import ray

        environment = {"py_modules": [bulk, common, handler], "working_dir": str(model_folder), "excludes": ["*.pt"]}
        try:
            ray.init(runtime_env=environment, log_to_driver=False, logging_level="ERROR", **options)
            yield
        except (ray.exceptions.RayError, RuntimeError, ValueError) as error:
            raise UserError(f"Ray at {address or 'this machine'}: {error}") from error
        finally:
            ray.shutdown()


def _run_tasks(job: Job, shards: Sequence[Shard]) -> Iterator[tuple[Shard, str]]:
    """Yield every shard as soon as its task has ended, with its error or an empty text."""
    import ray

    task, waiting, running = ray.remote(score_shard), iter(shards), dict[Any, Shard]()
    progress = show_progress(list[Any](), "images", sum(shard.rows for shard in shards), unit="images")
    with progress:
        while True:
            free = TASKS_PER_CORE * int(ray.cluster_resources().get("CPU", 1)) - len(running)
            running |= {task.remote(job, shard): shard for _, shard in zip(range(free), waiting, strict=False)}
            if not running:
                return
            [done], _ = ray.wait(list(running))
            shard, error = running.pop(done), ""
            try:
                ray.get(done)
            except Exception as failure:  # of the task, or of Ray
                error = str(failure).strip().rpartition("\n")[2]
            progress.update(shard.rows)
            yield shard, error
