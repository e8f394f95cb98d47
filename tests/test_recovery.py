"""Processes are killed and archives removed: the server returns to its last state."""

import json
import signal
import time

import pytest
import requests

from serving.config import Config
from serving.local_management import LocalManagementClient
from serving.lock import find_process
from serving.state import read_state
from tests.archives import provide_archive
from tests.images import SMOKE
from tests.servers import (
    Load,
    find_java,
    get_readiness,
    is_predicting,
    list_alive,
    list_processes,
    list_workers,
    read_log,
    run_load,
    run_server,
    run_subprocess,
    wait_for,
)

BATCH = 16  # of model-config.yaml: what a worker has in hand at the most
ServedVersions = tuple[str, dict[str, tuple[int, int, int]]]


def read_versions(client: LocalManagementClient) -> ServedVersions:
    """Return the default, and the READY, minimum and maximum workers of every version."""
    versions = client.list_versions()
    counts = {name: (item.ready, item.min_workers, item.max_workers) for name, item in versions.items()}
    return client.get_default().version, counts


ROLLED_OUT: ServedVersions = ("1.1", {"1.0": (3, 3, 3), "1.1": (1, 1, 1), "1.2": (2, 2, 2)})


def roll_out(client: LocalManagementClient) -> None:
    """Register and promote 1.1 by command, register 1.2 by the API; scale 1.1 down and 1.0 up."""
    for version in ("1.1", "1.2"):
        provide_archive(version, client.store)
    client.register("digits-1.1.mar")
    client.api.call("POST", "/models", params={"url": "digits-1.2.mar"}, timeout=60)
    client.promote("1.1")
    client.scale(1)
    client.api.call("PUT", "/models/digits/1.0", params={"min_worker": "3", "synchronous": "true"})
    wait_for(lambda: read_versions(client) == ROLLED_OUT)


@pytest.mark.slow
@pytest.mark.serial
def test_a_roll_out_survives_killed_java_a_killed_supervisor_a_stop_and_missing_archives(own: Config) -> None:
    with run_server(own) as (process, client):
        roll_out(client)
        left = list_processes(process)
        find_java(process).kill()
        killed = time.monotonic()
        status = run_subprocess(own, "status", "--json")
        assert (status.returncode, json.loads(status.stdout)["ready"]) == (1, False), status.stderr
        wait_for(lambda: is_predicting(own))
        print(f"serving again {time.monotonic() - killed:.1f} s after Java was killed")
        wait_for(lambda: read_versions(client) == ROLLED_OUT)
        wait_for(lambda: get_readiness(own) == (200, "ready"))
        assert not list_alive(left)
        metrics = requests.get(own.get_url("supervisor") + "/metrics", timeout=10).text
        assert "digits_server_restarts_total 1.0" in metrics
        assert "TorchServe exited with code -9; restarting it" in read_log(own)
        left = list_processes(process)
        process.kill()
        process.wait()
        wait_for(lambda: not list_alive(left), 10)
        assert find_process(own) is None
    with run_server(own) as (_, client):
        wait_for(lambda: read_versions(client) == ROLLED_OUT)
        assert client.inference.predict(SMOKE[7]).model_version == "1.1"
        assert run_subprocess(own, "stop").stdout == "stopped\n"
    (own.model_store / "digits-1.1.mar").unlink()
    content = (own.model_store / "digits-1.2.mar").read_bytes()
    (own.model_store / "digits-1.2.mar").write_bytes(content[:-1] + b"x")
    with run_server(own) as (_, client):
        wait_for(lambda: read_versions(client) == ("1.0", {"1.0": (3, 3, 3)}))
    log = read_log(own)
    assert "digits-1.1.mar is missing; put it back and register it again" in log
    assert "digits-1.2.mar differs from the SHA-256 beside it" in log
    assert "the default is now digits 1.0" in log


def send_change(config: Config, method: str, path: str, **query: str) -> None:
    """Change something through the management API."""
    with LocalManagementClient(config, retries=0) as client:
        client.api.call(method, path, params=query)


def read_saved_state(config: Config) -> tuple[str, int, set[str]]:
    """Return the default, its maximum of workers, and all versions."""
    with LocalManagementClient(config, retries=0) as client:
        return client.get_default().version, client.get_default().max_workers, set(client.list_versions())


@pytest.mark.serial
def test_a_change_by_curl_survives_an_immediate_kill(own: Config) -> None:
    """The supervisor has had no time to poll, and is killed too at the end: TorchServe's snapshot has the change."""
    provide_archive("1.1", own.model_store)
    with run_server(own) as (process, client):
        client.register("digits-1.1.mar")
        server = find_java(process)
        send_change(own, "PUT", "/models/digits/1.1/set-default")
        send_change(own, "PUT", "/models/digits", min_worker="1", max_worker="1", synchronous="true")
        server.kill()
        wait_for(lambda: is_predicting(own))
        assert read_saved_state(own) == ("1.1", 1, {"1.0", "1.1"})
        server = find_java(process)
        process.send_signal(signal.SIGSTOP)
        send_change(own, "DELETE", "/models/digits/1.0")
        server.kill()
        process.kill()
        process.wait()
    state = read_state(own)
    assert (state.default, state.versions["1.1"]["maxWorkers"], set(state.versions)) == ("1.1", 1, {"1.1"})


@pytest.mark.serial
def test_a_killed_worker_loses_only_its_own_requests_and_is_back_within_10_s(own: Config) -> None:
    with run_server(own) as (process, client), run_load(Load(own)) as load:
        wait_for(lambda: len(load.records) > 200)
        victim = list_workers(process)[0]
        killed = time.monotonic()
        victim.kill()
        wait_for(lambda: client.get_default().ready == 1, 5)
        wait_for(lambda: client.get_default().ready == 2, 10)
        back = time.monotonic() - killed
        count = len(load.records)
        wait_for(lambda: len(load.records) > count + 200)
    print(f"READY again after {back:.1f} s; {len(load.failures)} of {len(load.records)} requests failed")
    assert back < 10
    assert len(load.failures) <= BATCH
    assert all(failure.start < killed + 1 and failure.status in (500, 507) for failure in load.failures)
    others = [
        each for each in load.records if each.status == 200 and each.start > killed and each.ended < killed + back
    ]
    assert len(others) > 100
