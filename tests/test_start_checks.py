"""serving/start_checks.py: problems that prevent a start are reported first; others are worked around."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.config import Config, ServingError
from serving.start_checks import check_folders, check_options, check_ports, make_temporary_folder
from tests.servers import configure_free_ports, find_port

TMP = Path("/tmp")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configure_free_ports(tmp_path)


def change(config: Config, **properties: str) -> Config:
    return replace(config, properties=config.properties | properties)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        *(("disable_token_authorization", value, "manages TorchServe by its tokens") for value in ("true", "TRUE")),
        ("enable_envvars_config", "True", "write the options here instead"),
        *(("service_envelope", value, "as they are sent") for value in ("json", "body", "kservev2")),
        *((name, "x", "make register") for name in ("load_models", "models", "model_snapshot")),
        ("keystore", "a.p12", "name it in certificate_file"),
        *((f"{api}_address", "https://127.0.0.1:8443", "make certs") for api in ("inference", "management", "metrics")),
        ("supervisor_address", "https://127.0.0.1:8443", "does not support TLS"),
        ("enable_grpc_ssl", "true", "make certs"),
    ],
)
def test_an_unsupported_option_is_an_error_that_names_it(option: str, value: str, reason: str, config: Config) -> None:
    with pytest.raises(ServingError, match=f"{option} is .*not supported: .*{reason}"):
        check_options(change(config, **{option: value}))


def test_options_without_effect_are_accepted(config: Config) -> None:
    switched_off = {"disable_token_authorization": "false", "enable_envvars_config": "no", "enable_grpc_ssl": "False"}
    check_options(change(config, **switched_off))


@pytest.mark.parametrize("missing", ["certificate_file", "private_key_file", "metrics_config"])
def test_an_unreadable_file_is_an_error_that_names_it(missing: str, config: Config) -> None:
    files = {name: name for name in ("certificate_file", "private_key_file", "metrics_config")}
    for name in files.keys() - {missing}:
        (config.folder / name).touch()
    with pytest.raises(ServingError, match=f"{missing}: {missing} cannot be read; "):
        check_options(change(config, **files))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1"])
def test_a_port_in_use_is_an_error_that_names_it(host: str, config: Config) -> None:
    port = config.get_ports()["supervisor"][1]
    config = change(config, supervisor_address=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    check_ports(config)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, port), family=family),
        pytest.raises(
            ServingError, match=f"already in use: supervisor {host}:{port}; stop the program that listens there"
        ),
    ):
        check_ports(config)


@pytest.mark.parametrize("api", ["inference", "supervisor"])
@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("203.0.113.1", "not an address of this machine"),
        ("[2001:db8::1]", "not an address of this machine"),
        ("no-such-host.invalid", "unknown host name"),
        ("a..b", "unknown host name"),
    ],
)
def test_every_reason_for_no_port_has_its_own_message(api: str, host: str, reason: str, config: Config) -> None:
    name = host.strip("[]")
    with pytest.raises(ServingError, match=f"^{reason}: {api} {name}:9999; .*addresses are in .*config.properties$"):
        check_ports(change(config, **{f"{api}_address": f"http://{host}:9999"}))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EACCES, "not permitted to this user: inference .*; use a port from 1024 on"),
        (errno.EAFNOSUPPORT, "of an address family that this machine does not support: inference"),
        (errno.ENOBUFS, f"{os.strerror(errno.ENOBUFS)}: inference"),
    ],
)
def test_a_forbidden_address_is_an_error_that_names_it(
    code: int, reason: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket is a stand-in, since root may bind any port."""

    class ForbiddenSocket(socket.socket):
        def bind(self, _: Any) -> None:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(socket, "socket", ForbiddenSocket)
    with pytest.raises(ServingError, match=reason):
        check_ports(config)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"inference_address": "http://127.0.0.1:PORT"}, {"management_address": "http://127.0.0.1:PORT"}),
        ({"inference_address": "http://localhost:PORT"}, {"supervisor_address": "http://127.0.0.1:PORT"}),
        ({"metrics_address": "http://0.0.0.0:PORT"}, {"supervisor_address": "http://127.0.0.1:PORT"}),
        ({"metrics_address": "http://[::]:PORT"}, {"grpc_management_port": "PORT"}),
        ({"grpc_inference_port": "PORT"}, {"grpc_management_port": "PORT"}),
    ],
)
def test_a_port_shared_by_two_listeners_is_an_error(
    first: dict[str, str], second: dict[str, str], config: Config
) -> None:
    port = str(find_port())
    changed = {key: value.replace("PORT", port) for key, value in (first | second).items()}
    names = [next(iter(api)).removesuffix("_address").removesuffix("_port") for api in (first, second)]
    with pytest.raises(ServingError, match=f"{' and '.join(names)} share port {port}"):
        check_ports(change(config, **changed))


def raise_full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_unwritable_folders_are_errors_that_name_them(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folders(config)
    assert config.worker_metrics.is_dir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raise_full)
        with pytest.raises(ServingError, match=f"^{config.home}: cannot be written .No space .*DIGITS_HOME"):
            check_folders(config)
    with read_only(config.logs), pytest.raises(ServingError, match=f"^{config.logs}: cannot be written .*DIGITS_HOME"):
        check_folders(config)
    config.lock_file.touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, _: path != config.lock_file)
        with pytest.raises(ServingError, match=f"^{config.lock_file}: cannot be written .belongs to another user"):
            check_folders(config)
    check_folders(replace(config, home=config.folder / "new" / "home"))
    assert (config.folder / "new" / "home").is_dir()
    with pytest.raises(ServingError, match=r"config.properties: cannot be written .File exists"):
        check_folders(replace(config, home=config.path))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Keep this user, root too, from writing into a folder."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    if subprocess.run(["mount", "--bind", folder, folder]).returncode:
        pytest.skip("root needs mount to make a folder read-only")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room to choose its length."""
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as folder:
        yield Path(folder)


def use_temporary(config: Config) -> Path:
    """Make a temporary folder and remove it; return its parent."""
    folder = make_temporary_folder(config)
    with socket.socket(socket.AF_UNIX) as worker:
        worker.bind(str(folder / ".ts.sock.65535"))
    shutil.rmtree(folder)
    return folder.parent


def test_a_temporary_folder_is_used_only_where_sockets_fit(
    short_folder: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    longest = 76 if sys.platform != "darwin" else 72
    fits = short_folder / ("x" * (longest - len(str(short_folder)) - 1))
    for folder, expected in ((fits, fits), (Path(f"{fits}x"), TMP), (Path(f"{str(fits)[:-1]}ö"), TMP)):
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        assert use_temporary(config) == expected
    notes = capsys.readouterr().err.splitlines()
    reason = f"path has {longest + 1} bytes; Unix sockets in it allow at most {longest}"
    assert len(notes) == 2
    assert all(note.startswith("note: temporary files are in /tmp (") and reason in note for note in notes)


def test_the_first_suitable_temporary_folder_is_used(
    short_folder: Path, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(short_folder / "missing"))
    assert use_temporary(config) == TMP
    assert f"{short_folder}/missing: No such file or directory" in capsys.readouterr().err
    (short_folder / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(short_folder / "t"))
    with read_only(short_folder / "t"):
        assert use_temporary(config) == TMP
    monkeypatch.setenv("DIGITS_HOME", str(short_folder))
    config = replace(config, home=short_folder)
    assert use_temporary(config) == short_folder / "tmp"
    free = dict.fromkeys((short_folder / "tmp", TMP), 100_000) | {short_folder / "t": 2**24}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free[place]))
    assert use_temporary(config) == short_folder / "t"
    free[short_folder / "t"] -= 1
    with pytest.raises(ServingError, match="no folder for temporary files") as caught:
        make_temporary_folder(config)
    assert all(f"{place}: " in str(caught.value) for place in free)
    assert str(caught.value).count("0.1 MiB are free, 16 are needed") == 2
