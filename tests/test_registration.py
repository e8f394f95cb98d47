"""Foreign or changed archives, and those outside the store, are not registered, and none of their code runs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from digits_client.exceptions import DigitsError
from serving.archive import build_archive, check_archive, compute_sha256
from serving.config import ROOT, Config, ServingError
from serving.local_management import LocalManagementClient
from tests.archives import copy_project, provide_archive


@pytest.fixture
def client(server: Config) -> Iterator[LocalManagementClient]:
    """The session's server, whose store gets archives of versions that no other test uses."""
    provide_archive("1.1", server.model_store)
    with LocalManagementClient(server, retries=0) as opened:
        yield opened


def write_foreign_archive(path: Path, folder: Path) -> None:
    """Write an archive whose code writes a file when it runs."""
    code = f"open({str(folder / 'executed')!r}, 'w').close()\n"
    with ZipFile(path, "w") as mar:
        model = {"modelName": "digits", "modelVersion": "3.0", "handler": "digit_handler.py"}
        mar.writestr(
            "MAR-INF/MANIFEST.json", json.dumps({"model": model, "createdOn": "", "archiverVersion": "0.12.0"})
        )
        mar.writestr("digit_handler.py", code)


@pytest.fixture
def hostile(client: LocalManagementClient, tmp_path: Path) -> dict[str, str]:
    """Archive names that must not be registered, by kind."""
    store = client.store
    outside = provide_archive("3.1", tmp_path / "elsewhere")
    (store / "digits-3.1.mar").symlink_to(outside)
    shutil.copy(f"{outside}.sha256", store)
    changed = provide_archive("3.2", store)
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    write_foreign_archive(store / "digits-3.0.mar", tmp_path)
    (store / "digits-3.0.mar.sha256").write_text("0" * 64)
    write_foreign_archive(store / "digits-3.3.mar", tmp_path)
    write_checksum(store / "digits-3.3.mar")
    provide_archive("3.4", store).rename(store / "digits-3.5.mar")
    (store / "digits-3.4.mar.sha256").rename(store / "digits-3.5.mar.sha256")
    climbing = provide_archive("3.8", store)
    with ZipFile(climbing, "a") as mar:
        mar.writestr("../climbed.py", "")
    write_checksum(climbing)
    provide_archive("3.6", store)
    (store / "digits-3.6.mar.sha256").unlink()
    (store / "digits-3.7.mar").mkdir()
    record = json.loads((ROOT / "model" / "model.json").read_text())
    one_digit = {"9": record["smoke"]["9"]}
    for version, smoke in {"3.9": one_digit, "3.10": dict.fromkeys("0123456789", [float("nan")] * 10)}.items():
        project = copy_project(tmp_path / version)
        (project / "model" / "model.json").write_text(json.dumps(record | {"smoke": smoke}))
        build_archive(version, store, project)
    return {
        "http URL": "http://127.0.0.1:9/digits-1.1.mar",
        "https URL": "https://127.0.0.1:9/digits-1.1.mar",
        "file URL": f"file://{store}/digits-1.1.mar",
        "file URL without slashes": f"file:{store}/digits-1.1.mar",
        "file outside the store": str(outside),
        "parent": "../model_store/digits-1.1.mar",
        "symbolic link": "digits-3.1.mar",
        "changed byte": "digits-3.2.mar",
        "not ours": "digits-3.0.mar",
        "not ours, with a SHA-256": "digits-3.3.mar",
        "another version's name": "digits-3.5.mar",
        "no SHA-256": "digits-3.6.mar",
        "a member outside of it": "digits-3.8.mar",
        "folder": "digits-3.7.mar",
        "a smoke test of one digit": "digits-3.9.mar",
        "a smoke test that anything passes": "digits-3.10.mar",
        "missing": "digits-9.9.mar",
        "empty": "",
    }


def write_checksum(path: Path) -> None:
    """Write an archive's SHA-256 file, as an attacker with access to the store could."""
    Path(f"{path}.sha256").write_text(f"{compute_sha256(path)}  {path.name}\n")


def test_hostile_registrations_are_rejected_and_run_no_code(
    client: LocalManagementClient, hostile: dict[str, str], tmp_path: Path
) -> None:
    for archive in hostile.values():
        with pytest.raises((ServingError, DigitsError)):
            client.register(archive)
        with pytest.raises(ServingError):  # before TorchServe hears of it
            check_archive(client.store, archive)
    assert set(client.list_versions()) == {"1.0"}
    assert not (tmp_path / "executed").exists()


RAW = {
    "http://127.0.0.1:9/a.mar": "Given URL http://127.0.0.1:9/a.mar does not match any allowed URL(s)",
    "file://{outside}": "Given URL file://{outside} does not match any allowed URL(s)",
    "../a.mar": "Relative path is not allowed in url: ../a.mar",
    "{outside}": "Model not found at: {outside}",
}


def test_the_api_rejects_archives_outside_the_store(
    server: Config, client: LocalManagementClient, tmp_path: Path
) -> None:
    """The archive exists, and its code would run if it were registered."""
    outside = server.folder / "a.mar"
    write_foreign_archive(outside, tmp_path)
    for url, message in RAW.items():
        query = {"url": url.format(outside=outside), "initial_workers": "1", "synchronous": "true"}
        response = client.api.request("POST", "/models", params=query)
        assert response.status_code in (400, 404)
        assert message.format(outside=outside) in response.json()["message"]
    assert set(client.list_versions()) == {"1.0"}
    assert not (tmp_path / "executed").exists()
