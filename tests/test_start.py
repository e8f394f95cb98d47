"""serving/java_command.py, serving/torchserve.py: how TorchServe is started, and the output of a failed start.

The last test starts a real server under many adverse conditions at once.
"""

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import javaproperties
import psutil
import pytest

from serving.config import ROOT, Config, read_config
from serving.java_command import make_environment
from serving.local_management import LocalManagementClient
from serving.state import State
from serving.torchserve import TorchServe
from tests.archives import provide_archive
from tests.images import SMOKE
from tests.servers import configure_free_ports, make_command, read_until_curl
from tests.test_start_checks import read_only


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configure_free_ports(tmp_path)


def run_stand_in(config: Config, monkeypatch: pytest.MonkeyPatch, script: str) -> str:
    """Run this shell script as TorchServe; return its last lines."""
    java = config.folder / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    java.chmod(0o700)
    monkeypatch.setenv("JAVA_HOME", str(java.parents[1]))
    server = TorchServe(config, State({}), {})
    server.process.wait(10)
    lines = server.get_last_lines()
    server.stop()
    return lines


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ("echo Invalid größe; exit 1", "Invalid größe"),
        ("echo WARNING: sun.reflect.Reflection; echo; echo A; echo B", "A | B"),
        ("seq 100000", "99996 | 99997 | 99998 | 99999 | 100000"),  # more than a pipe holds
        ("printf '\\351\\n'", "\N{REPLACEMENT CHARACTER}"),
        ("exit 1", "nothing"),
    ],
)
def test_the_last_output_of_an_ended_torchserve_is_returned(
    script: str, lines: str, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_stand_in(config, monkeypatch, script) == lines


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has subreapers")
def test_orphaned_workers_leave_no_zombies(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subreaper adopts orphans, as process 1 of a container does."""
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    prctl(set_child_subreaper, 1)
    try:
        run_stand_in(config, monkeypatch, "sleep 60 > /dev/null & exit 1")
        children = psutil.Process().children()
        assert [child for child in children if child.status() == psutil.STATUS_ZOMBIE] == []
    finally:
        prctl(set_child_subreaper, 0)


def test_values_reach_torchserve_unchanged(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"allowed_urls": "s3\\..*:#!=x", "cors_allowed_origin": "größe"}
    config = replace(config, properties=config.properties | values)
    run_stand_in(config, monkeypatch, f"cp config.properties '{config.folder}/written'")
    written = (config.folder / "written").read_text(encoding="ascii")
    properties = javaproperties.loads(written)
    assert values.items() <= properties.items()
    assert json.loads(properties["model_snapshot"]) == json.loads(State({}).make_snapshot())
    assert config.properties.items() <= properties.items()


def test_the_environment_overrides_nothing_and_has_a_kill_program(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TS_CONFIG_FILE", "TS_MODEL_SERVER_HOME", "LOG_LOCATION", "METRICS_LOCATION", "PYTHONPATH"):
        monkeypatch.setenv(name, "/elsewhere")
    for path in ("/nonexistent", ""):
        monkeypatch.setenv("PATH", path)
        environment = make_environment(config.folder)
        assert "/elsewhere" not in environment.values()
        assert shutil.which("kill", path=environment["PATH"])
    assert environment["LC_ALL"] == "C.UTF-8" or sys.platform == "darwin"
    kill = ROOT / "serving" / "bin" / "kill"
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    subprocess.run([kill, "-9", str(process.pid)], env={}, check=True)
    assert process.wait(10) == -9
    process.communicate()


@pytest.mark.slow
def test_a_server_starts_under_adverse_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only, non-ASCII folder under LC_ALL=C, a BOM, colons, IPv6, a long TMPDIR, a bad environment."""
    folder, home = tmp_path / "größe", tmp_path / ("zuhause ö" * 3)
    monkeypatch.setenv("DIGITS_HOME", str(home))
    folder.mkdir()
    properties = configure_free_ports(folder, Path("archive ö")).properties | {"job_queue_size": "300"}
    text = "".join(f"{key} : {value}\n" for key, value in properties.items())
    if socket.has_dualstack_ipv6():
        text = text.replace("//127.0.0.1", "//[::1]").replace("address : 127.0.0.1", "address : ::1")
    (folder / "config.properties").write_text(f"! größe\n{text}", encoding="utf-8-sig")
    config = read_config(folder / "config.properties")
    provide_archive("1.0", home / "archive ö")
    (tmp_path / ("t" * 90)).mkdir()
    adverse = {
        "TMPDIR": str(tmp_path / ("t" * 90)),
        "LC_ALL": "C",
        "LOG_LOCATION": "/nonexistent",
        "TS_CONFIG_FILE": "/nonexistent",
        "TS_DISABLE_TOKEN_AUTHORIZATION": "true",
    }
    options: Any = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True, "env": os.environ | adverse}
    with (
        read_only(folder),
        (home / "errors").open("w") as file,
        subprocess.Popen(make_command(config, "serve"), stderr=file, **options) as process,
    ):
        try:
            read_until_curl(process)
            with LocalManagementClient(config, retries=0) as client:
                assert client.inference.predict(SMOKE[7]).digit == 7
                assert client.status.read_readiness().ready
                assert client.get_default().queue == 300
        finally:
            process.terminate()
    assert "note: temporary files are in /tmp (" in (home / "errors").read_text()
    assert [path.name for path in folder.iterdir()] == ["config.properties"]
    assert (home / "served.json").is_file()
