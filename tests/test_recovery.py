"""Processes killed and restarts: what was served is served again."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
import requests

from serving.archive import build_archive
from serving.client import DigitsClient
from serving.config import Config, ServingError, on_free_ports
from serving.lock import process_of
from serving.state import read_state
from tests.pictures import SMOKE
from tests.servers import (
    Load,
    alive,
    answers,
    command,
    errors,
    family,
    java,
    java_or_none,
    output_until_curl,
    ready,
    serving_client,
    started,
    under_load,
    wait_for,
    with_archives,
    workers,
)

BATCH = 16  # of model-config.yaml: what a worker has in hand at the most


def served(client: DigitsClient) -> tuple[str, dict[str, tuple[int, int, int]]]:
    """The default, and of each version the workers that are READY, its least and its most."""
    versions = client.models()
    counts = {name: (each.ready, each.min_workers, each.max_workers) for name, each in versions.items()}
    return client.default().version, counts


def roll_out(client: DigitsClient) -> tuple[str, dict[str, tuple[int, int, int]]]:
    """1.1 is registered by command and promoted, 1.2 registered by the API alone; 1.1 is scaled down, 1.0 up."""
    for version in ("1.1", "1.2"):
        build_archive(version, client.config.model_store)
    client.register("digits-1.1.mar")
    client.ask("management", "POST", "/models", params={"url": "digits-1.2.mar"})
    client.promote("1.1")
    client.scale(1)
    client.ask("management", "PUT", "/models/digits/1.0", params={"min_worker": "3", "synchronous": "true"})
    wait_for(lambda: client.models()["1.2"].ready == 2)
    return served(client)


ROLLED_OUT = ("1.1", {"1.0": (3, 3, 3), "1.1": (1, 1, 1), "1.2": (2, 2, 2)})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """What a server has left that was stopped after a roll-out."""
    config = with_archives(tmp_path_factory.mktemp("stopped"), "1.0")
    with serving_client(config) as (_, client):
        assert roll_out(client) == ROLLED_OUT
        assert command(config, "stop").stdout == "stopped\n"
    return config


@pytest.fixture
def rolled_out(stopped: Config, tmp_path: Path) -> Config:
    """A copy of it on ports of its own."""
    shutil.copytree(stopped.folder, tmp_path, dirs_exist_ok=True)
    return on_free_ports(tmp_path, tmp_path / "model_store")


def test_versions_default_and_workers_survive_a_stop(rolled_out: Config) -> None:
    with serving_client(rolled_out) as (_, client):
        assert client.ready().ready
        wait_for(lambda: served(client) == ROLLED_OUT)
        assert client.predict(SMOKE[7]).model_version == "1.1"
        assert client.rollback().version == "1.0"


def test_killed_java_is_replaced_within_20_s_with_the_same_versions_and_default(rolled_out: Config) -> None:
    with serving_client(rolled_out) as (process, client):
        wait_for(lambda: served(client) == ROLLED_OUT)
        left = family(process)
        java(process).kill()
        killed = time.monotonic()
        status = command(rolled_out, "status", "--json")
        assert (status.returncode, json.loads(status.stdout)["ready"]) == (1, False), status.stderr
        wait_for(lambda: answers(rolled_out), 20)
        print(f"serving again {time.monotonic() - killed:.1f} s after Java was killed")
        assert time.monotonic() - killed < 20
        wait_for(lambda: served(DigitsClient(rolled_out)) == ROLLED_OUT)
        wait_for(lambda: ready(rolled_out) == (200, "ready"))
        assert not alive(left)
        assert command(rolled_out, "status").returncode == 0
        metrics = requests.get(rolled_out.url("supervisor") + "/metrics", timeout=10).text
        assert "digits_server_restarts_total 1.0" in metrics
    assert "TorchServe ended by itself, with code -9; it is started again" in errors(rolled_out)


def test_a_killed_supervisor_takes_its_server_along_and_the_next_one_goes_on(rolled_out: Config) -> None:
    with serving_client(rolled_out) as (process, client):
        wait_for(lambda: served(client) == ROLLED_OUT)
        left = family(process)
        process.kill()
        process.wait()
        wait_for(lambda: not alive(left), 10)
        assert process_of(rolled_out) is None
    with serving_client(rolled_out) as (_, client):
        wait_for(lambda: served(client) == ROLLED_OUT)


def test_a_start_right_after_the_supervisor_was_killed_ends_what_it_left(own: Config) -> None:
    left = killed_and_left(own)
    temporary = Path(left[0].environ()["TMPDIR"])
    with serving_client(own):
        assert not alive(left)
        assert not temporary.exists()


def test_stop_reaches_a_start_that_still_ends_what_a_killed_one_left(own: Config) -> None:
    left = killed_and_left(own)
    with started(own) as process:
        wait_for(lambda: process_of(own) == process.pid)
        assert alive(left)
        assert command(own, "stop").stdout == "stopped\n"
        assert process.wait(1) == 0
    assert not alive(left)


def killed_and_left(config: Config) -> list[psutil.Process]:
    """The processes of a server that cannot end by themselves, its supervisor being gone."""
    with serving_client(config) as (process, _):
        left = family(process)
        for each in left:
            each.suspend()
        process.kill()
        process.wait()
    assert alive(left)
    return left


def set_default(client: DigitsClient) -> None:
    client.ask("management", "PUT", "/models/digits/1.1/set-default")


def scale(client: DigitsClient) -> None:
    fewer = {"min_worker": "1", "max_worker": "1", "synchronous": "true"}
    client.ask("management", "PUT", "/models/digits", params=fewer)


def unregister(client: DigitsClient) -> None:
    client.ask("management", "DELETE", "/models/digits/1.0")


# In this order: 1.1 becomes the default, loses a worker, is left alone. -> the default, its workers, all versions
CHANGES: dict[Callable[[DigitsClient], None], tuple[str, int, set[str]]] = {
    set_default: ("1.1", 2, {"1.0", "1.1"}),
    scale: ("1.1", 1, {"1.0", "1.1"}),
    unregister: ("1.1", 1, {"1.1"}),
}


def kept(config: Config) -> tuple[str, int, set[str]]:
    with DigitsClient(config, retries=0) as client:
        return client.default().version, client.default().max_workers, set(client.models())


def test_what_curl_has_just_changed_survives_a_kill_at_once(own: Config) -> None:
    """The supervisor has had no time to look: TorchServe's own snapshot tells."""
    build_archive("1.1", own.model_store)
    with serving_client(own) as (process, client):
        client.register("digits-1.1.mar")
        for change, expected in CHANGES.items():
            server = java(process)
            with DigitsClient(own, retries=0) as asking:
                change(asking)
                server.kill()
            wait_for(lambda: answers(own))
            assert kept(own) == expected


def test_what_curl_has_just_changed_survives_a_kill_of_the_supervisor_too(own: Config) -> None:
    build_archive("1.1", own.model_store)
    with serving_client(own) as (process, client):
        client.register("digits-1.1.mar")
        change_and_kill_both(set_default, process, client)
    for before, change in pairwise(CHANGES):
        with serving_client(own) as (process, client):
            assert kept(own) == CHANGES[before]
            change_and_kill_both(change, process, client)
    with serving_client(own):
        assert kept(own) == CHANGES[unregister]


def change_and_kill_both(change: Callable[[DigitsClient], None], process: "Popen[str]", client: DigitsClient) -> None:
    server = java(process)
    process.send_signal(signal.SIGSTOP)
    change(client)
    server.kill()
    process.kill()
    process.wait()


def test_archives_that_vanished_or_changed_are_reported_and_the_rest_starts(rolled_out: Config) -> None:
    (rolled_out.model_store / "digits-1.1.mar").unlink()
    content = (rolled_out.model_store / "digits-1.2.mar").read_bytes()
    (rolled_out.model_store / "digits-1.2.mar").write_bytes(content[:-1] + b"x")
    with serving_client(rolled_out) as (_, client):
        assert served(client) == ("1.0", {"1.0": (3, 3, 3)})
    said = errors(rolled_out)
    assert "digits 1.1 is not served any more:" in said
    assert "digits-1.1.mar has vanished; put it back and register it again" in said
    assert "digits-1.2.mar is not the archive whose SHA-256 is beside it" in said
    assert "the default is now digits 1.0" in said


def test_nothing_left_in_the_store_is_an_error_that_names_it(own: Config) -> None:
    with serving_client(own):
        pass
    (own.model_store / "digits-1.0.mar").unlink()
    run = command(own, "serve")
    assert run.returncode == 1
    assert "digits 1.0 is not served any more" in run.stderr
    assert "error: digits-1.0.mar: no such archive in" in run.stderr


def test_serve_with_a_version_makes_it_the_default_once(own: Config) -> None:
    build_archive("1.1", own.model_store)
    with serving_client(own):
        pass
    with started(own, "--version", "1.1") as process:
        output_until_curl(process)
        with DigitsClient(own) as client:
            assert client.default().version == "1.1"
            client.rollback()
        java(process).kill()
        wait_for(lambda: answers(own))
        with DigitsClient(own) as client:
            assert client.default().version == "1.0"


def test_a_version_that_never_answered_is_not_kept(own: Config, project: Path) -> None:
    (project / "handler" / "confidence.py").write_text("raise ImportError('broken')\n")
    build_archive("6.8", own.model_store, project)
    with serving_client(own):
        pass
    for end in (Popen.terminate, Popen.kill):
        with started(own, "--version", "6.8") as process:
            wait_for(lambda: "0 of 2 workers of digits 6.8 are READY" in errors(own))
            end(process)
            process.wait(60)
        assert (read_state(own).default, set(read_state(own).versions)) == ("1.0", {"1.0"})
    with serving_client(own) as (_, client):
        assert served(client) == ("1.0", {"1.0": (2, 2, 2)})


def test_a_killed_worker_costs_its_own_requests_alone_and_is_back_within_10_s(own: Config) -> None:
    with serving_client(own) as (process, client), under_load(Load(own)) as load:
        time.sleep(1)
        victim = workers(process)[0]
        begun = time.monotonic()
        victim.kill()
        wait_for(lambda: client.default().ready == 1, 5)
        wait_for(lambda: client.default().ready == 2, 10)
        back = time.monotonic() - begun
        time.sleep(1)
    print(f"READY again after {back:.1f} s; {len(load.failed)} of {len(load.sent)} requests failed")
    assert back < 10
    assert len(load.failed) <= BATCH
    assert all(each.begun < begun + 1 and each.status in (500, 507) for each in load.failed)
    others = [each for each in load.sent if each.status == 200 and each.begun > begun and each.ended < begun + back]
    assert len(others) > 100


def test_stopped_amid_a_restart_forgets_nothing(own: Config) -> None:
    """Java is back and is changed, its workers are not."""
    build_archive("1.1", own.model_store)
    with serving_client(own) as (process, client):
        client.register("digits-1.1.mar")
        java(process).kill()
        wait_for(lambda: changed(client), 20)
        process.terminate()
        assert process.wait(60) == 0
    assert read_state(own).default == "1.1"


def changed(client: DigitsClient) -> bool:
    """Whether TorchServe made 1.1 its default, as soon as it could be asked to."""
    try:
        client.ask("management", "PUT", "/models/digits/1.1/set-default")
    except ServingError:
        return False
    return True


def test_a_full_disk_or_a_spoiled_file_stops_nobody(own: Config) -> None:
    """A folder in the place of the state's temporary file: it cannot be written, by root neither."""
    build_archive("1.1", own.model_store)
    with serving_client(own) as (process, client):
        own.state_file.write_text("{")
        client.register("digits-1.1.mar")
        assert read_state(own).default == "1.0"
        blocked = own.folder / f".{own.state_file.name}.{process.pid}.tmp"
        (blocked / "x").mkdir(parents=True)
        client.ask("management", "PUT", "/models/digits/1.1/set-default")
        wait_for(lambda: "changes are not kept:" in errors(own), 5)
        assert ready(own) == (200, "ready")
        assert client.predict(SMOKE[7]).model_version == "1.1"
        shutil.rmtree(blocked)
        wait_for(lambda: json.loads(own.state_file.read_text())["history"] == ["1.0", "1.1"], 5)
    assert errors(own).count("changes are not kept:") == 1


def test_a_server_that_dies_too_often_is_given_up(own: Config) -> None:
    with serving_client(own) as (process, _):
        for start in range(1, 7):
            wait_for(partial(says, own, "starting TorchServe", start), 30)
            wait_for(lambda: java_or_none(process) is not None, 20)
            java(process).kill()
        assert process.wait(30) == 1
    assert "error: TorchServe ended by itself, with code -9, for the 6th time in" in errors(own)


def says(config: Config, words: str, times: int) -> bool:
    return errors(config).count(words) >= times


def test_a_start_that_fails_forgets_nothing_that_a_killed_server_has_left(own: Config) -> None:
    build_archive("1.1", own.model_store)
    with serving_client(own) as (process, client):
        client.register("digits-1.1.mar")
        process.send_signal(signal.SIGSTOP)
        client.ask("management", "PUT", "/models/digits/1.1/set-default")
        process.kill()
        process.wait()
    with started(own) as process:
        wait_for(lambda: java_or_none(process) is not None)
        java(process).kill()
        assert process.wait(60) == 1
    assert "error: TorchServe ended while starting, with code -9" in errors(own)
    assert read_state(own).default == "1.1"


def test_java_that_dies_again_while_it_starts_is_started_again(own: Config) -> None:
    with serving_client(own) as (process, _):
        java(process).kill()
        wait_for(lambda: errors(own).count("starting TorchServe") == 2)
        wait_for(lambda: java_or_none(process) is not None)
        java(process).kill()
        wait_for(lambda: "READY again" in errors(own), 30)
        assert ready(own) == (200, "ready")
        assert errors(own).count("it is started again") == 2
