"""Rolling out and back against a real server: nobody's request fails, and only what proved itself goes live."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import psutil
import pytest

from serving.archive import build_archive, check_archive, sha256
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


def executed(folder: Path) -> bool:
    return (folder / "executed").exists()


def foreign(path: Path, folder: Path) -> None:
    """An archive that writes a file when anything of it is run."""
    code = f"open({str(folder / 'executed')!r}, 'w').close()\n"
    with ZipFile(path, "w") as mar:
        model = {"modelName": "digits", "modelVersion": "3.0", "handler": "digit_handler.py"}
        mar.writestr(
            "MAR-INF/MANIFEST.json", json.dumps({"model": model, "createdOn": "", "archiverVersion": "0.12.0"})
        )
        mar.writestr("digit_handler.py", code)


@pytest.fixture
def hostile(client: DigitsClient, tmp_path: Path) -> dict[str, str]:
    """What must not be registered, by kind."""
    store = client.config.model_store
    outside = provide_archive("3.1", tmp_path / "elsewhere")
    (store / "digits-3.1.mar").unlink(missing_ok=True)
    (store / "digits-3.1.mar").symlink_to(outside)
    shutil.copy(f"{outside}.sha256", store)
    changed = provide_archive("3.2", store)
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    foreign(store / "digits-3.0.mar", tmp_path)
    (store / "digits-3.0.mar.sha256").write_text("0" * 64)
    foreign(store / "digits-3.3.mar", tmp_path)
    write_sum(store / "digits-3.3.mar")
    provide_archive("3.4", store).rename(store / "digits-3.5.mar")
    (store / "digits-3.4.mar.sha256").rename(store / "digits-3.5.mar.sha256")
    climbing = provide_archive("3.8", store)
    with ZipFile(climbing, "a") as mar:
        mar.writestr("../climbed.py", "")
    write_sum(climbing)
    damaged = provide_archive("3.9", store)
    original = damaged.read_bytes()
    middle = len(original) // 2  # amid scripted_model.pt
    damaged.write_bytes(original[:middle] + bytes([original[middle] ^ 255]) + original[middle + 1 :])
    write_sum(damaged)
    provide_archive("3.6", store)
    (store / "digits-3.6.mar.sha256").unlink()
    (store / "digits-3.7.mar").mkdir(exist_ok=True)
    for kind, (version, change) in enumerate(SPOILT.values()):
        spoil(store, f"3.1{kind}", version, change)
    return {f"spoilt: {name}": f"digits-3.1{kind}.mar" for kind, name in enumerate(SPOILT)} | {
        "http URL": "http://127.0.0.1:9/digits-1.1.mar",
        "https URL": "https://127.0.0.1:9/digits-1.1.mar",
        "file URL": f"file://{store}/digits-1.1.mar",
        "file URL without slashes": f"file:{store}/digits-1.1.mar",
        "file outside the store": str(outside),
        "parent": "../model_store/digits-1.1.mar",
        "parent in a path": f"{store}/../model_store/digits-1.1.mar",
        "symbolic link": "digits-3.1.mar",
        "changed byte": "digits-3.2.mar",
        "changed byte, with a SHA-256": "digits-3.9.mar",
        "not ours": "digits-3.0.mar",
        "not ours, with a SHA-256": "digits-3.3.mar",
        "another version's name": "digits-3.5.mar",
        "no SHA-256": "digits-3.6.mar",
        "a member outside of it": "digits-3.8.mar",
        "folder": "digits-3.7.mar",
        "folder of the store": str(store),
        "missing": "digits-9.9.mar",
        "empty": "",
    }


def smoke_of(record: dict[str, Any], smoke: object) -> dict[str, Any]:
    return record | {"smoke": smoke}


# What is wrong -> its version, and how model.json is changed.
SPOILT: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "nothing expected": ("", lambda record: smoke_of(record, {})),
    "a list": ("", lambda record: smoke_of(record, [])),
    "not a number": ("", lambda record: smoke_of(record, dict.fromkeys("0123456789", [float("nan")] * 10))),
    "nine numbers": ("", lambda record: smoke_of(record, dict.fromkeys("0123456789", [0.1] * 9))),
    "one digit": ("", lambda record: smoke_of(record, {"9": record["smoke"]["9"]})),
    "a version of another path": ("1.0?x", lambda record: record),
}


def spoil(store: Path, version: str, told: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """An archive of ours with other contents, and with its SHA-256."""
    with ZipFile(provide_archive(version, store)) as mar:
        members = {name: mar.read(name) for name in mar.namelist()}
    members["model.json"] = json.dumps(change(json.loads(members["model.json"]))).encode()
    manifest = json.loads(members["MAR-INF/MANIFEST.json"])
    manifest["model"]["modelVersion"] = told or version
    members["MAR-INF/MANIFEST.json"] = json.dumps(manifest).encode()
    path = store / f"digits-{version}.mar"
    with ZipFile(path, "w") as mar:
        for name, content in members.items():
            mar.writestr(name, content)
    write_sum(path)


def write_sum(path: Path) -> None:
    """Writes an archive's own SHA-256 beside it, as somebody with access to the store could."""
    Path(f"{path}.sha256").write_text(f"{sha256(path)}  {path.name}\n")


def test_hostile_registrations_are_refused_and_nothing_is_run(
    client: DigitsClient, hostile: dict[str, str], tmp_path: Path
) -> None:
    for kind, archive in hostile.items():
        with pytest.raises(ServingError) as refused:
            client.register(archive)
        assert len(str(refused.value)) > 20, kind
        with pytest.raises(ServingError):
            check_archive(client.config.model_store, archive)
    assert set(client.models()) == {"1.0"}
    assert not executed(tmp_path)


RAW = {
    "http://127.0.0.1:9/a.mar": "Given URL http://127.0.0.1:9/a.mar does not match any allowed URL(s)",
    "https://127.0.0.1:9/a.mar": "Given URL https://127.0.0.1:9/a.mar does not match any allowed URL(s)",
    "file://{outside}": "Given URL file://{outside} does not match any allowed URL(s)",
    "../a.mar": "Relative path is not allowed in url: ../a.mar",
    "b/../../a.mar": "Relative path is not allowed in url: b/../../a.mar",
    "{outside}": "Model not found at: {outside}",
}


@pytest.mark.parametrize("url", RAW)
def test_the_raw_api_refuses_what_is_outside_the_store(url: str, client: DigitsClient, tmp_path: Path) -> None:
    """The archive is there, and would be run if it were registered."""
    outside = client.config.folder / "a.mar"
    foreign(outside, tmp_path)
    (client.config.model_store / "b").mkdir(exist_ok=True)
    given, told = url.format(outside=outside), RAW[url].format(outside=outside)
    for query in ({"url": given}, {"url": given, "initial_workers": "1", "synchronous": "true"}):
        response = client.request("management", "POST", "/models", params=query)
        assert response.status_code in (400, 404)
        assert told in response.json()["message"]
    assert set(client.models()) == {"1.0"}
    assert not executed(tmp_path)
