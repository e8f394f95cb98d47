"""`python -m serving serve` in a separate process, from its start to its end, as a user runs it."""

import os
import pty
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import requests

from digits_client.client import DigitsClient
from digits_client.exceptions import UnreachableError
from serving.archive import build_archive
from serving.config import ROOT, Config
from serving.readiness import RECHECK_SECONDS
from serving.start_checks import check_ports
from tests.archives import copy_project, swap_digits
from tests.images import SMOKE
from tests.servers import (
    configure_free_ports,
    get_readiness,
    list_alive,
    list_processes,
    list_workers,
    make_command,
    read_log,
    read_until_curl,
    run_process,
    run_server,
    run_subprocess,
    wait_for,
)


def collect_readiness(config: Config) -> list[tuple[int, str]]:
    """Collect the responses of /ready until it is 200; predictions must then work at once."""
    said: list[tuple[int, str]] = []

    def is_ready() -> bool:
        try:
            said.append(get_readiness(config))
        except requests.ConnectionError:
            return False
        return said[-1][0] == 200

    wait_for(is_ready)
    with DigitsClient(server=config.make_server(), timeout=2, retries=0) as client:
        assert client.predict(SMOKE[7]).digit == 7
    return said


def test_a_server_from_its_start_to_make_stop(own: Config) -> None:
    """The environment names a proxy, which the server must not use; meanwhile its workers are killed."""
    with run_process(own, before=["env", "-u", "no_proxy", "http_proxy=http://127.0.0.1:9"]) as process:
        said = collect_readiness(own)
        assert {status for status, _ in said[:-1]} == {503}
        assert "TorchServe does not answer yet" in {reason for _, reason in said}
        line = read_until_curl(process).splitlines()[-1]
        children = list_processes(process)
        assert len(children) >= 3  # Java and two workers

        killed = list_workers(process)
        for worker in killed:
            worker.kill()
        wait_for(lambda: not list_alive(killed))
        assert collect_readiness(own)[0][0] == 503

        second = run_subprocess(own, "serve")
        assert second.returncode == 1
        assert f"a server already runs here, as process {process.pid}; `make stop` ends it" in second.stderr
        if shutil.which("curl"):
            shell = line.replace("$(make -s token)", run_subprocess(own, "token").stdout.strip())
            run = subprocess.run(shell, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
            assert '"digit": 7' in run.stdout
        assert run_subprocess(own, "stop").stdout == "stopped\n"
        assert process.wait(5) == 0
    assert not list_alive(children)
    assert not own.key_file.exists()
    check_ports(own)
    assert "Traceback" not in read_log(own)
    again = run_subprocess(own, "stop")
    assert (again.stdout, again.returncode) == ("no server is running here\n", 0)


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_ends_make_without_an_error(own: Config) -> None:
    """A terminal runs `make`, which runs the server; Ctrl-C is typed there."""
    (own.folder / "Makefile").write_text(f"serve:\n\t@exec {' '.join(make_command(own, 'serve'))}\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.chdir(own.folder)
        os.execvp("make", ["make", "serve"])
    shown = b""
    while b"curl" not in shown:
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while True:
        try:
            shown += os.read(terminal, 1000)
        except OSError:  # the terminal's other end is closed
            break
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGINT  # make's own way to end
    assert b"***" not in shown
    check_ports(own)


def test_a_signal_while_it_starts_exits_0(own: Config) -> None:
    with run_process(own) as process:
        wait_for(lambda: bool(list_processes(process)))
        process.terminate()
        assert process.wait(60) == 0
    check_ports(own)


def test_a_start_that_cannot_succeed_is_an_error_before_anything_runs(
    own: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    run = run_subprocess(own, "serve")
    assert run.returncode == 1
    assert "JAVA_HOME=/nowhere: has no bin/java" in run.stderr


@pytest.mark.slow
def test_a_model_that_fails_the_smoke_test_is_not_ready(tmp_path: Path) -> None:
    build_archive("1.0", tmp_path / "model_store", swap_digits(copy_project(tmp_path / "project")))
    config = configure_free_ports(tmp_path, tmp_path / "model_store")
    with run_process(config):
        wait_for(lambda: "smoke image 0.png: the digit is 3" in read_log(config))
        assert get_readiness(config)[0] == 503


HANGS = """

_compute = Calibration.compute_probabilities


def _hang(*args):
    import os, time
    while os.path.exists({brake!r}):
        time.sleep(0.1)
    return _compute(*args)


Calibration.compute_probabilities = _hang
"""


@pytest.mark.slow
def test_ready_is_503_while_all_workers_hang(own: Config, project: Path) -> None:
    """Their processes live, and TorchServe lists them as READY."""
    brake = own.folder / "brake"
    with (project / "handler" / "calibration.py").open("a") as handler:
        handler.write(HANGS.format(brake=str(brake)))
    build_archive("1.0", own.model_store, project)
    with run_server(own) as (_, client):
        brake.touch()
        wait_for(lambda: get_readiness(own)[0] == 503, 2 * RECHECK_SECONDS + 5)
        assert client.get_default().ready == 2
        with (
            DigitsClient(server=own.make_server(), timeout=0.5) as hurried,
            pytest.raises(UnreachableError, match="did not respond in time"),
        ):
            hurried.predict(SMOKE[7])
        brake.unlink()
        wait_for(lambda: get_readiness(own) == (200, "ready"))
