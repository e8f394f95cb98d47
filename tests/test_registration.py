"""Archives that are not ours, changed or elsewhere: nothing of them is registered, and nothing is run."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from serving.archive import check_archive, sha256
from serving.client import DigitsClient
from serving.config import Config, ServingError
from tests.archives import provide_archive


@pytest.fixture
def client(server: Config) -> Iterator[DigitsClient]:
    """The session's server, whose store gets archives of versions that no other test names."""
    provide_archive("1.1", server.model_store)
    with DigitsClient(server, retries=0) as opened:
        yield opened


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
