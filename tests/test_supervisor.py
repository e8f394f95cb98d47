"""serving/supervisor.py with real processes: signals, crashes, taken ports, and readiness that tells the truth."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import torch

from serving.archive import build_archive
from serving.config import ROOT, Config, ServingError, on_free_ports, read_config
from serving.foreground import orders_by_signals
from serving.torchserve import END_SECONDS, check_ports, end_leftovers
from tests.conftest import copy_project
from tests.servers import alive, family, output_until_curl, ready, serving, started, wait_for
from training.export import MODEL, RECORD, export
from training.model import DigitCNN, load_model


@pytest.fixture
def in_a_terminal() -> Iterator[None]:
    """Tests under `nohup` ignore hang-ups, and so would the servers they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("in_a_terminal")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_every_process_and_exits_0(name: str, own: Config) -> None:
    with started(own) as process:
        output = output_until_curl(process)
        children = family(process)
        assert len(children) >= 3  # Java and two workers
        sent = time.monotonic()
        process.send_signal(getattr(signal, name))
        assert process.wait(60) == 0
        print(f"an idle server ended {time.monotonic() - sent:.1f} s after {name}")
    assert not alive(children)
    assert not own.key_file.exists()
    check_ports(own)
    assert float(output.split("READY in ")[1].split(" s")[0]) <= 15
    assert "Traceback" not in (own.folder / "errors").read_text()


@pytest.fixture
def own_signals() -> Iterator[None]:
    """The handlers of before come back."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {name: signal.getsignal(name) for name in names}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


STORM = """
import os, signal, time
parent = os.getppid()
while os.getppid() == parent:
    os.kill(parent, signal.SIGUSR1)
    time.sleep(0.00005)
"""


@pytest.mark.usefixtures("own_signals")
def test_a_signal_amid_a_wait_for_it_hangs_nobody() -> None:
    """It may come while the main thread holds the lock of the event that stands for it.

    The storm comes from a process: a thread of ours would only run, and send, while the main thread waits in peace.
    """
    orders = orders_by_signals()
    with subprocess.Popen([sys.executable, "-c", STORM]) as storm:
        for _ in range(5000):
            orders.rotate.wait(0.00001)
            orders.rotate.clear()
        storm.kill()
    signal.raise_signal(signal.SIGTERM)
    assert orders.stop.wait(10)
    assert not orders.hurry.is_set()
    signal.raise_signal(signal.SIGINT)
    assert orders.hurry.wait(10)


UNSEEN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_who_has_ended_is_not_waited_for_until_its_parent_sees_it(tmp_path: Path) -> None:
    """The first process of a container, whose child an orphan becomes, may take seconds; this parent never looks."""
    temporary = tmp_path / "digits-own"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", UNSEEN], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        leftover = int(parent.stdout.readline())
        begun = time.monotonic()
        end_leftovers(leftover, temporary)
        took, status = time.monotonic() - begun, psutil.Process(leftover).status()
        parent.kill()
    assert status == psutil.STATUS_ZOMBIE
    assert took < END_SECONDS
    assert not temporary.exists()


ENDING = """
import ctypes, socket, threading, time
listening = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=time.sleep, args=[60]).start()
print(listening.getsockname()[1], flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_who_is_just_ending_is_waited_for_as_its_threads_hold_ports(tmp_path: Path) -> None:
    """A killed Java is a zombie some hundredths of a second before its last thread lets its ports go."""
    command = [sys.executable, "-c", ENDING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as leftover:
        assert leftover.stdout is not None
        port = int(leftover.stdout.readline())
        wait_for(lambda: psutil.Process(leftover.pid).status() == psutil.STATUS_ZOMBIE)
        socket.create_connection(("127.0.0.1", port)).close()
        try:
            end_leftovers(leftover.pid, tmp_path)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
        finally:
            leftover.kill()


def test_a_hangup_that_nohup_has_ignored_is_ignored(own: Config) -> None:
    with started(own, before=["nohup"]) as process:
        output_until_curl(process)
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert ready(own) == (200, "ready")


def test_a_signal_while_it_starts_exits_0(own: Config) -> None:
    with started(own) as process:
        wait_for(lambda: bool(family(process)))
        process.terminate()
        assert process.wait(60) == 0
    check_ports(own)


def test_the_printed_curl_line_works(own: Config) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    with started(own) as process:
        line = output_until_curl(process).splitlines()[-1]
        token = subprocess.run(
            serving(own, "token"), cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        shell = line.replace("$(make -s token)", token)
        answer = subprocess.run(shell, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '"digit": 7' in answer


def test_ctrl_c_in_a_terminal_ends_make_without_an_error(own: Config) -> None:
    """As typed: a terminal, a `make` between it and the server, and the key Ctrl-C."""
    (own.folder / "Makefile").write_text(f"serve:\n\t@exec {' '.join(serving(own, 'serve'))}\n")
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
    assert os.waitstatus_to_exitcode(status) == 0
    assert b"***" not in shown
    check_ports(own)


def test_stop_from_another_terminal(own: Config) -> None:
    with started(own) as process:
        output_until_curl(process)
        stop = subprocess.run(serving(own, "stop"), cwd=ROOT, capture_output=True, text=True)
        assert (stop.stdout, process.wait(5)) == ("stopped\n", 0)
    again = subprocess.run(serving(own, "stop"), cwd=ROOT, capture_output=True, text=True)
    assert (again.stdout, again.returncode) == ("no server is running here\n", 0)


@pytest.mark.parametrize(
    "name", ["inference", "management", "metrics", "supervisor", "grpc_inference", "grpc_management"]
)
def test_a_taken_port_is_named_before_anything_starts(name: str, own: Config) -> None:
    host, port = own.ports()[name]
    with socket.create_server((host, port)):
        run = subprocess.run(serving(own, "serve"), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert f"error: already in use: {name} {host}:{port};" in run.stderr
    assert not (own.folder / "logs").exists()


def test_a_missing_archive_is_named(own: Config) -> None:
    run = subprocess.run(serving(own, "serve", "--version", "9.9"), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert "digits-9.9.mar: no such archive in" in run.stderr


def test_a_wrong_java_home_is_named(own: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    run = subprocess.run(serving(own, "serve"), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert "JAVA_HOME=/nowhere: has no bin/java" in run.stderr


def test_a_second_server_in_the_same_folder_is_refused_and_harms_nothing(own: Config) -> None:
    with started(own) as process:
        output_until_curl(process)
        second = subprocess.run(serving(own, "serve"), cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 1
        assert f"a server already runs here, as process {process.pid}; `make stop` ends it" in second.stderr
        assert ready(own) == (200, "ready")


def test_readiness_does_not_ask_a_proxy(own: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with started(own) as process:
        output_until_curl(process)


def test_a_port_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    for wrong in ("grpc_inference_port=abc", "grpc_inference_port=99999"):
        path.write_text((ROOT / "config.properties").read_text().replace("grpc_inference_port=7070", wrong))
        with pytest.raises(ServingError, match="expected"):
            read_config(path)


def test_ready_is_503_with_the_reason_until_the_workers_answer(own: Config) -> None:
    with started(own) as process:
        seen: list[tuple[int, str]] = []

        def asked() -> bool:
            try:
                seen.append(ready(own))
            except requests.ConnectionError:
                return False
            return seen[-1][0] == 200

        wait_for(asked)
        assert {status for status, _ in seen[:-1]} == {503}
        assert "TorchServe does not answer yet" in {reason for _, reason in seen}
        assert process.poll() is None


def test_ready_is_503_while_no_worker_lives(own: Config) -> None:
    with started(own) as process:
        output_until_curl(process)
        assert ready(own) == (200, "ready")
        for child in family(process):
            if child.name() != "java":
                child.kill()
        wait_for(lambda: ready(own)[0] == 503, 10)
        wait_for(lambda: ready(own)[0] == 200)


def test_a_model_that_reads_the_smoke_pictures_wrong_is_not_ready(tmp_path: Path) -> None:
    build_archive("1.0", tmp_path / "model_store", exchange_digits(copy_project(tmp_path / "project")))
    config = on_free_ports(tmp_path, tmp_path / "model_store")
    with started(config):
        wait_for(lambda: "was read as" in (config.folder / "errors").read_text())
        assert ready(config)[0] == 503


def exchange_digits(project: Path) -> Path:
    """Gives the project a model that reads a 3 as a 5 and a 5 as a 3."""
    model = load_model(project / MODEL)
    assert isinstance(model, DigitCNN)
    order = [0, 1, 2, 5, 4, 3, 6, 7, 8, 9]
    with torch.no_grad():
        model.linear.weight.copy_(model.linear.weight[order].clone())
        model.linear.bias.copy_(model.linear.bias[order].clone())
    export(model, json.loads((project / RECORD).read_text()), project)
    return project


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        *((f"token_expiration_min={minutes}", "minutes") for minutes in ("abc", "0", "-5", "1.2.3")),
        *((f"max_request_size={size}", "bytes") for size in ("", "0", "1.5", "16M")),
    ],
)
def test_a_number_that_is_none_is_named(line: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_text(f"{(ROOT / 'config.properties').read_text()}\n{line}\n")
    with pytest.raises(ServingError, match=f"{line.replace('=', ' is ')}; expected {expected}"):
        read_config(path)


def test_a_configuration_without_an_address_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_text((ROOT / "config.properties").read_text().replace("grpc_inference_port", "#"))
    with pytest.raises(ServingError, match="no line grpc_inference_port="):
        read_config(path)


def test_everything_listens_on_loopback_alone() -> None:
    assert {host for host, _ in read_config().ports().values()} == {"127.0.0.1"}


def test_token_without_a_server_says_so(own: Config) -> None:
    run = subprocess.run(serving(own, "token"), cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert "key_file.json: no tokens: the server does not run, or is starting; `make status`" in run.stderr
