"""Rolling out and back against a real server: nobody's request fails, and only what proved itself goes live."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.archive import build_archive
from serving.client import DigitsClient
from serving.config import Config, ServingError
from serving.connection import RefusedError
from serving.state import read_state
from tests.archives import copy_project, provide_archive, swap_digits
from tests.pictures import SMOKE
from tests.servers import Load, run_supervised, under_load, with_archives

TIMES = 20


@pytest.fixture(scope="module")
def rolling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A server of version 1.0, with 1.1 in its store."""
    config = with_archives(tmp_path_factory.mktemp("rolling"), "1.0", "1.1")
    with run_supervised(config):
        yield config


@pytest.fixture
def client(rolling: Config) -> Iterator[DigitsClient]:
    """Leaves 1.0 alone and in charge."""
    with DigitsClient(rolling, retries=0) as asking:
        yield asking
        if asking.default().version != "1.0":
            asking.promote("1.0")
        for version in asking.models().keys() - {"1.0"}:
            asking.unregister(version)


def test_no_request_fails_from_register_to_unregister(client: DigitsClient) -> None:
    with under_load(Load(client.config)) as load:
        client.register("digits-1.1.mar")
        client.promote("1.1")
        client.rollback()
        client.promote("1.1")
        client.unregister("1.0")
        client.register("digits-1.0.mar")
        client.promote("1.0")
        client.unregister("1.1")
    print(f"{len(load.sent)} requests, {len(load.failed)} failed")
    assert len(load.sent) > 500
    assert not load.failed
    assert {each.version for each in load.sent} == {"1.0", "1.1"}


def test_twenty_promotions_and_rollbacks_under_load_fail_no_request(client: DigitsClient) -> None:
    client.register("digits-1.1.mar")
    live = [(0.0, "1.0")]  # from when on which version was the default
    switched = [0.0]  # when the switch was over
    with under_load(Load(client.config)) as load:
        for _ in range(TIMES):
            live.append((time.monotonic(), "1.1"))
            client.promote("1.1")
            switched.append(time.monotonic())
            live.append((time.monotonic(), "1.0"))
            client.rollback()
            switched.append(time.monotonic())
    print(f"{len(load.sent)} requests over {len(live) - 1} switches, {len(load.failed)} failed")
    assert not load.failed
    over = [*switched[1:], float("inf")]
    for each in load.sent:
        possible = {
            version
            for (begun, version), end in zip(live, over, strict=True)
            if begun <= each.ended and each.begun <= end
        }
        assert each.version in possible
    assert len({each.version for each in load.sent}) == 2


def test_register_leaves_the_default_alone_and_gives_as_many_workers(client: DigitsClient) -> None:
    client.scale(1, 3)
    registered = client.register("digits-1.1.mar")
    assert (registered.version, registered.ready, registered.max_workers) == ("1.1", 2, 3)
    assert client.default().version == "1.0"
    assert client.predict(SMOKE[4]).model_version == "1.0"
    assert client.predict(SMOKE[4], "1.1").model_version == "1.1"
    client.scale(2)


def test_rollback_goes_back_step_by_step_and_says_when_there_is_nothing_left(client: DigitsClient) -> None:
    provide_archive("1.2", client.config.model_store)
    for version in ("1.1", "1.2"):
        client.register(f"digits-{version}.mar")
        client.promote(version)
    assert [client.rollback().version, client.rollback().version] == ["1.1", "1.0"]
    with pytest.raises(ServingError, match="no version to go back to"):
        client.rollback()
    assert client.default().version == "1.0"


def test_rollback_returns_to_what_curl_promoted_from(client: DigitsClient) -> None:
    client.register("digits-1.1.mar")
    client.ask("management", "PUT", "/models/digits/1.1/set-default")
    assert read_state(client.config).previous == "1.0"
    assert client.rollback().version == "1.0"


def test_rollback_needs_neither_the_archive_nor_all_workers(client: DigitsClient) -> None:
    client.register("digits-1.1.mar")
    client.promote("1.1")
    archive = client.config.model_store / "digits-1.0.mar"
    archive.rename(archive.with_suffix(".kept"))
    try:
        with pytest.raises(ServingError, match="no such archive"):
            client.promote("1.0")
        psutil.Process(client.models()["1.0"].workers[0].pid).suspend()
        assert client.rollback().version == client.default().version == "1.0"
    finally:
        archive.with_suffix(".kept").rename(archive)
        psutil.Process(client.models()["1.0"].workers[0].pid).resume()


def test_what_was_registered_before_stays_if_it_is_registered_again(client: DigitsClient) -> None:
    client.register("digits-1.1.mar")
    with pytest.raises(RefusedError, match="409 ConflictStatusException"):
        client.register("digits-1.1.mar")
    assert set(client.models()) == {"1.0", "1.1"}


def test_a_model_that_reads_wrong_is_not_registered(client: DigitsClient, tmp_path: Path) -> None:
    build_archive("6.6", client.config.model_store, swap_digits(copy_project(tmp_path)))
    with pytest.raises(ServingError, match=r"6\.6: smoke picture 3.png was read as 5"):
        client.register("digits-6.6.mar")
    assert set(client.models()) == {"1.0"}


def test_a_model_that_is_not_the_one_of_its_record_is_not_registered(client: DigitsClient, tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    record = json.loads((project / "model" / "model.json").read_text())
    record["calibration"]["temperature"] *= 1.1
    (project / "model" / "model.json").write_text(json.dumps(record))
    build_archive("6.7", client.config.model_store, project)
    with pytest.raises(ServingError, match=r"from those its model\.json expects"):
        client.register("digits-6.7.mar")
    assert set(client.models()) == {"1.0"}


def test_a_version_whose_workers_die_is_not_registered(
    client: DigitsClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_project(tmp_path)
    (project / "handler" / "confidence.py").write_text("raise ImportError('broken')\n")
    build_archive("6.8", client.config.model_store, project)
    monkeypatch.setattr("serving.client.LOAD_SECONDS", 5.0)
    with pytest.raises(ServingError, match=r"0 of 2 workers of 6\.8 are READY after 5 s; logs/torchserve.log"):
        client.register("digits-6.8.mar")
    assert set(client.models()) == {"1.0"}
    assert client.predict(SMOKE[4]).digit == 4


def test_what_cannot_be_done_is_said(client: DigitsClient) -> None:
    with pytest.raises(ServingError, match=r"9\.9 is not registered; these are: 1\.0"):
        client.promote("9.9")
    with pytest.raises(ServingError, match=r"1\.0 is the default; promote another version first"):
        client.unregister("1.0")
    with pytest.raises(ServingError, match="at least 3 and at most 2 workers; expected"):
        client.scale(3, 2)
    with pytest.raises(ServingError, match="at least 0 and at most 0 workers; expected"):
        client.scale(0)
    with pytest.raises(RefusedError, match="409 ConflictStatusException"):
        client.register("digits-1.0.mar")
    assert set(client.models()) == {"1.0"}


def test_a_version_that_is_still_asked_by_name_is_not_removed(
    client: DigitsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.register("digits-1.1.mar")
    monkeypatch.setattr("serving.client.DRAIN_SECONDS", 2.0)
    with (
        under_load(Load(client.config, path="/predictions/digits/1.1")) as load,
        pytest.raises(ServingError, match=r"1\.1 is still asked by callers that name it"),
    ):
        client.unregister("1.1")
    assert not load.failed
