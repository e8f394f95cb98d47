"""Roll-out and rollback with a real server: no request fails, and only a version that passes its test is promoted."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from digits_client.exceptions import TOKEN_VARIABLES, ApiError, DigitsError
from digits_client.management import ManagementClient
from digits_client.transport import read_token
from serving.archive import build_archive
from serving.config import ROOT, Config, ServingError
from serving.local_management import LocalManagementClient
from serving.state import read_state
from tests.archives import copy_project, swap_digits
from tests.images import SMOKE
from tests.servers import Load, configure_with_archives, run_load, run_supervised

ROLLBACKS = 5  # promotions and rollbacks of a version under load


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A server of version 1.0, with 1.1 in its store."""
    config = configure_with_archives(tmp_path_factory.mktemp("rolling"), "1.0", "1.1")
    with run_supervised(config):
        yield config


@pytest.fixture
def client(rolling: Config) -> Iterator[LocalManagementClient]:
    """A management client; afterwards, 1.0 is the only version and the default."""
    with LocalManagementClient(rolling, retries=0) as client:
        yield client
        if client.get_default().version != "1.0":
            client.promote("1.0")
        for version in client.list_versions().keys() - {"1.0"}:
            client.unregister(version)


def test_no_request_fails_from_register_to_unregister(rolling: Config, client: LocalManagementClient) -> None:
    """Every response comes from a version that was the default at that time."""
    switches = [(0.0, 0.0, "1.0")]  # start and end of a change, and the default from then on

    def record_switch(change: Callable[[], object], version: str) -> None:
        begin = time.monotonic()
        change()
        switches.append((begin, time.monotonic(), version))

    with run_load(Load(rolling)) as load:
        client.register("digits-1.1.mar")
        for _ in range(ROLLBACKS):
            record_switch(lambda: client.promote("1.1"), "1.1")
            record_switch(client.rollback, "1.0")
        rolled = len(load.records)
        client.promote("1.1")
        client.unregister("1.0")
        client.register("digits-1.0.mar")
        client.promote("1.0")
        client.unregister("1.1")
    print(f"{len(load.records)} requests, {len(load.failures)} failed")
    assert len(load.records) > 500
    assert not load.failures
    assert {record.version for record in load.records} == {"1.0", "1.1"}
    ends = [*(end for _, end, _ in switches[1:]), float("inf")]
    for record in load.records[:rolled]:
        assert record.version in {
            version
            for (begin, _, version), end in zip(switches, ends, strict=True)
            if begin <= record.ended and record.start <= end
        }


def test_register_keeps_the_default_and_starts_as_many_workers(rolling: Config, client: LocalManagementClient) -> None:
    client.scale(1, 3)
    registered = client.register("digits-1.1.mar")
    assert (registered.version, registered.ready, registered.max_workers) == ("1.1", 2, 3)
    assert client.get_default().version == "1.0"
    assert client.inference.predict(SMOKE[4]).model_version == "1.0"
    assert client.inference.predict(SMOKE[4], "1.1").model_version == "1.1"
    with pytest.raises(ApiError, match="409 ConflictStatusException"):
        client.register("digits-1.1.mar")
    archive = client.store / "digits-1.1.mar"
    archive.rename(archive.with_suffix(".kept"))
    try:
        with ManagementClient(server=rolling.make_server()) as remote, pytest.raises(ApiError, match="404"):
            remote.register("digits-1.1.mar")
    finally:
        archive.with_suffix(".kept").rename(archive)
    assert set(client.list_versions()) == {"1.0", "1.1"}  # what was registered before stays
    client.scale(2)


def test_rollback_of_a_promotion_by_curl_needs_neither_the_archive_nor_all_workers(
    rolling: Config, client: LocalManagementClient
) -> None:
    client.register("digits-1.1.mar")
    client.api.call("PUT", "/models/digits/1.1/set-default")
    assert read_state(rolling).previous == "1.0"
    archive = client.store / "digits-1.0.mar"
    archive.rename(archive.with_suffix(".kept"))
    try:
        with pytest.raises(ServingError, match="no such archive"):
            client.promote("1.0")
        archive.write_bytes(b"damaged")
        psutil.Process(client.list_versions()["1.0"].workers[0].pid).suspend()
        with LocalManagementClient(rolling, timeout=2) as hurried:  # what the suspended worker gets is sent again
            assert hurried.rollback().version == client.get_default().version == "1.0"
    finally:
        archive.with_suffix(".kept").rename(archive)
        psutil.Process(client.list_versions()["1.0"].workers[0].pid).resume()


def change_temperature(project: Path) -> None:
    path = project / "model" / "model.json"
    record = json.loads(path.read_text())
    record["calibration"]["temperature"] *= 1.1
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("version", "spoil", "error"),
    [
        ("6.6", swap_digits, r"6\.6: smoke image 0\.png: the digit is 3"),
        ("6.7", change_temperature, r"from those its model\.json expects"),
    ],
)
def test_a_model_that_fails_its_smoke_test_is_not_registered(
    version: str, spoil: Callable[[Path], object], error: str, client: LocalManagementClient, tmp_path: Path
) -> None:
    project = copy_project(tmp_path)
    spoil(project)
    build_archive(version, client.store, project)
    with pytest.raises(DigitsError, match=error):
        client.register(f"digits-{version}.mar")
    assert set(client.list_versions()) == {"1.0"}


def test_a_version_whose_workers_die_is_not_registered(
    client: LocalManagementClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_project(tmp_path)
    (project / "handler" / "calibration.py").write_text("raise ImportError('broken')\n")
    build_archive("6.8", client.store, project)
    monkeypatch.setattr("digits_client.management.LOAD_SECONDS", 5.0)
    with pytest.raises(DigitsError, match=r"0 of 2 workers of 6\.8 are READY after 5 s; .*logs/torchserve\.log"):
        client.register("digits-6.8.mar")
    assert set(client.list_versions()) == {"1.0"}
    assert client.inference.predict(SMOKE[4]).digit == 4


def test_a_version_that_still_gets_requests_by_name_is_not_removed(
    rolling: Config, client: LocalManagementClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.register("digits-1.1.mar")
    monkeypatch.setattr("digits_client.management.DRAIN_SECONDS", 2.0)
    with (
        run_load(Load(rolling, path="/predictions/digits/1.1")) as load,
        pytest.raises(DigitsError, match=r"1\.1 still gets requests from callers that name it"),
    ):
        client.unregister("1.1")
    assert not load.failures


@pytest.mark.slow
def test_a_machine_without_the_checkout_rolls_out_by_url_and_tokens(
    rolling: Config, client: LocalManagementClient, tmp_path: Path
) -> None:
    """It has only the client's package; smoke images come from the version's description."""
    shutil.copytree(ROOT / "digits_client", tmp_path / "packages" / "digits_client")
    tokens = {name: read_token(rolling.key_file, kind) for kind, name in TOKEN_VARIABLES.items()}
    environment = os.environ | tokens | {"PYTHONPATH": str(tmp_path / "packages")}
    urls = [f"--{api}-url={rolling.get_url(api)}" for api in ("management", "metrics", "supervisor")]

    def run(*words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "digits_client", *words, "--url", rolling.get_url("inference"), *urls]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == code, run.stderr
        return run

    registered = json.loads(run("register", "1.1", "--json").stdout)
    assert (registered[0]["version"], registered[0]["default"], registered[0]["ready"]) == ("1.1", False, 2)
    assert json.loads(run("promote", "--version", "1.1", "--json").stdout)[0]["default"]
    assert "1.1 is the default; promote another version first" in run("unregister", "1.1", code=1).stderr
    assert client.inference.predict(SMOKE[4]).model_version == "1.1"
    assert json.loads(run("rollback", "--json").stdout)[0]["version"] == "1.0"
    assert json.loads(run("unregister", "1.1", "--json").stdout) == {"unregistered": "1.1"}
    build_archive("6.9", client.store, swap_digits(copy_project(tmp_path / "project")))
    assert "6.9: smoke image 0.png: the digit is 3" in run("register", "6.9", code=1).stderr
    assert set(client.list_versions()) == {"1.0"}
