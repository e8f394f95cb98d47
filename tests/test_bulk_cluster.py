"""`python -m bulk score` on Ray clusters of several nodes, all on this machine and bound to loopback."""

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
        run = score(images, images.parent / "out", RAY_ADDRESS=cluster.address)
    assert run.returncode == 0, run.stderr
    print_rate(1, images.parent / "out")
    return read_rows(images.parent / "out")


def print_rate(nodes: int, output: Path) -> None:
    """Print the images per second after the first file."""
    written = sorted(path.stat().st_mtime for path in output.glob("*.parquet"))
    print(f"\n{nodes} nodes with one core: {(SHARDS - 1) * ROWS / (written[-1] - written[0]):,.0f} images/s")


@pytest.mark.parametrize("nodes", [2, 3])
def test_rows_are_those_of_one_node(nodes: int, images: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    with start_cluster(nodes) as (cluster, _):
        run = score(images, tmp_path / "out", "--address", cluster.address)
    assert run.returncode == 0, run.stderr
    print_rate(nodes, tmp_path / "out")
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
