"""A full disk, read-only logs, a key file that cannot be replaced: a real server on separate file systems."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import requests

from digits_client.management import ManagementClient
from digits_client.status import StatusClient
from digits_client.transport import read_token
from serving.config import Config
from serving.local_management import LocalManagementClient
from tests.archives import provide_archive
from tests.servers import (
    Load,
    configure_free_ports,
    read_log,
    read_until_curl,
    run_load,
    run_process,
    run_subprocess,
    wait_for,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs root and mount"),
]


@contextmanager
def mount_folder(folder: Path, *options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Config]:
    """A configuration whose home has 4 MiB and archives of 1.0 and 1.1."""
    home = tmp_path / "home"
    with mount_folder(home, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        for version in ("1.0", "1.1"):
            provide_archive(version, home / "model_store")
        yield configure_free_ports(home, home / "model_store")


def write_ballast(folder: Path) -> Path:
    """Write a file that fills the disk."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        size = 2**16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return path


def read_saved_metric(config: Config) -> float:
    with StatusClient(server=config.make_server()) as client:
        return next(sample.value for sample in client.read_metrics(False) if sample.name == "digits_state_kept")


def read_ready(config: Config) -> str:
    response = requests.get(config.get_url("supervisor") + "/ready", timeout=10)
    assert response.status_code == 200, response.text
    return response.text


def test_on_a_full_disk_no_lost_change_is_reported_as_done(small_disk: Config) -> None:
    with run_process(small_disk) as process:
        read_until_curl(process)
        assert run_subprocess(small_disk, "register", "digits-1.1.mar").returncode == 0
        ballast = write_ballast(small_disk.home)
        for words in (["promote", "1.1"], ["scale", "--min", "1"], ["rollback"], ["promote", "1.1"]):
            run = run_subprocess(small_disk, *words)
            assert (run.returncode, run.stdout) == (1, ""), words
            assert "a restart would lose that" in run.stderr
            assert "No space left" in run.stderr
        assert read_saved_metric(small_disk) == 0
        assert "warning: changes are not kept" in read_ready(small_disk)
        ballast.unlink()
        wait_for(lambda: read_saved_metric(small_disk) == 1, 10)
        assert read_ready(small_disk) == "ready\n"
        assert run_subprocess(small_disk, "scale", "--min", "1", "--version", "1.1").returncode == 0
    with run_process(small_disk) as process:
        read_until_curl(process)
        with LocalManagementClient(small_disk) as client:
            default = client.get_default()
        assert (default.version, default.min_workers) == ("1.1", 1)


def test_a_promotion_by_curl_on_a_full_disk_is_saved_once_there_is_space(small_disk: Config) -> None:
    with run_process(small_disk) as process:
        read_until_curl(process)
        assert run_subprocess(small_disk, "register", "digits-1.1.mar").returncode == 0
        ballast = write_ballast(small_disk.home)
        with ManagementClient(server=small_disk.make_server()) as client:
            client.api.call("PUT", "/models/digits/1.1/set-default")
        wait_for(lambda: "not kept" in read_ready(small_disk), 10)
        ballast.unlink()
        wait_for(lambda: read_saved_metric(small_disk) == 1, 10)
        process.kill()
    with run_process(small_disk) as process:
        read_until_curl(process)
        with LocalManagementClient(small_disk) as client:
            assert client.get_default().version == "1.1"


@contextmanager
def fill_disk(config: Config) -> Iterator[None]:
    ballast = write_ballast(config.home)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def pin_key_file(config: Config) -> Iterator[None]:
    """Mount the key file, so that it cannot be replaced."""
    subprocess.run(["mount", "--bind", config.key_file, config.key_file], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", config.key_file], check=True)


@pytest.mark.parametrize("obstacle", [fill_disk, pin_key_file])
def test_tokens_that_cannot_be_stored_lock_no_caller_out(
    obstacle: Callable[[Config], AbstractContextManager[None]], small_disk: Config
) -> None:
    with run_process(small_disk) as process:
        read_until_curl(process)
        before = read_token(small_disk.key_file, "inference")
        with run_load(Load(small_disk, connections=4)) as load:
            with obstacle(small_disk):
                run = run_subprocess(small_disk, "token", "--rotate")
                assert run.returncode == 1
                assert "the tokens are not replaced" in run.stderr
                assert "warning: the tokens are not replaced" in read_ready(small_disk)
                assert read_token(small_disk.key_file, "inference") == before
            assert load.failures == []
        assert run_subprocess(small_disk, "token", "--rotate").returncode == 0
        wait_for(lambda: read_ready(small_disk) == "ready\n", 15)
        assert read_token(small_disk.key_file, "inference") != before


def test_logs_that_become_read_only_lose_nothing(small_disk: Config) -> None:
    with run_process(small_disk) as process:
        read_until_curl(process)
        with mount_folder(small_disk.logs, "-t", "tmpfs", "-o", "ro", "tmpfs"):
            for words in (["register", "digits-1.1.mar"], ["promote", "1.1"], ["predict", "handler/smoke/7.png"]):
                assert run_subprocess(small_disk, *words).returncode == 0, words
            process.kill()
            process.wait()
    with run_process(small_disk) as process:
        read_until_curl(process)
        with LocalManagementClient(small_disk) as client:
            assert client.get_default().version == "1.1"


def test_an_unwritable_state_at_the_start_is_an_error_that_names_it(small_disk: Config) -> None:
    write_ballast(small_disk.home)
    with run_process(small_disk) as process:
        assert process.wait(60) == 1
    assert read_log(small_disk).count("\n") <= 3
    assert "Traceback" not in read_log(small_disk)
