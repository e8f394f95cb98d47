"""`python -m bulk score` on Ray clusters of several nodes, all on this machine and bound to loopback."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bulk_runs import LOOPBACK, read_rows, score, start_score, write_shards

ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-interop` installs it")

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.slow, pytest.mark.timeout(300)]

SHARDS, ROWS = 40, 500


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("bulk") / "in", SHARDS, ROWS)


@contextmanager
def start_cluster(nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """Start a head without cores for tasks, and nodes with one core."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield cluster, [cluster.add_node(num_cpus=1) for _ in range(nodes)]
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module", autouse=True)
def bind_to_loopback() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LOOPBACK.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def expected(images: Path) -> list[dict[str, Any]]:
    """Return the rows of a run on one node."""
    with start_cluster(1) as (cluster, _):
        started = time.monotonic()
        run = score(images, images.parent / "out", RAY_ADDRESS=cluster.address)
        print(f"1 node: {SHARDS * ROWS / (time.monotonic() - started):,.0f} images/s with the start")
    assert run.returncode == 0, run.stderr
    return read_rows(images.parent / "out")


@pytest.mark.parametrize("nodes", [2, 3])
def test_rows_are_those_of_one_node(nodes: int, images: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    with start_cluster(nodes) as (cluster, _):
        started = time.monotonic()
        run = score(images, tmp_path / "out", "--address", cluster.address)
        print(f"{nodes} nodes: {SHARDS * ROWS / (time.monotonic() - started):,.0f} images/s with the start")
    assert run.returncode == 0, run.stderr
    assert read_rows(tmp_path / "out") == expected


@pytest.mark.parametrize("nodes", [2, 3])
def test_killed_nodes_tasks_are_repeated(
    nodes: int, images: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    with (
        start_cluster(nodes) as (cluster, added),
        start_score(images, tmp_path / "out", RAY_ADDRESS=cluster.address) as process,
    ):
        cluster.remove_node(added[0], allow_graceful=False)
        assert process.wait(120) == 0, process.stderr.read()
    assert read_rows(tmp_path / "out") == expected
