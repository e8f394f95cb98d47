"""/ready never says 200 of a server that does not answer: as it starts, drains, is killed, or hangs."""

import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from serving.archive import build_archive
from serving.client import DigitsClient
from serving.config import Config
from serving.connection import UnreachableError
from serving.readiness import PROOF_SECONDS
from tests.pictures import SMOKE, large_picture
from tests.servers import (
    Load,
    alive,
    answers,
    java,
    ready,
    serving_client,
    started,
    under_load,
    wait_for,
    workers,
)


def no_lie_until_ready(config: Config) -> list[int]:
    """What /ready says until it is 200 and a picture is answered; a 200 must mean an answer, and at once."""
    said: list[int] = []

    def answered() -> bool:
        try:
            said.append(ready(config)[0])
        except requests.ConnectionError:
            return False
        if said[-1] != 200:
            return False
        with DigitsClient(config, timeout=2, retries=0) as client:
            assert client.predict(SMOKE[7]).digit == 7
        return True

    wait_for(answered, 30)
    return said


def test_ready_never_lies_at_the_start(own: Config) -> None:
    with started(own):
        assert 503 in no_lie_until_ready(own)


@pytest.mark.parametrize("victims", ["workers", "java"])
def test_ready_never_lies_when_all_workers_or_java_are_killed(victims: str, own: Config) -> None:
    with serving_client(own) as (process, _):
        killed = workers(process) if victims == "workers" else [java(process)]
        for victim in killed:
            victim.kill()
        wait_for(lambda: not alive(killed))
        assert no_lie_until_ready(own)[0] == 503


def test_ready_never_lies_when_all_workers_hang(own: Config, project: Path) -> None:
    """They are alive, and TorchServe says READY."""
    brake = own.folder / "brake"
    with (project / "handler" / "confidence.py").open("a") as handler:
        handler.write(HANGS.format(brake=str(brake)))
    build_archive("1.0", own.model_store, project)
    with serving_client(own) as (_, client):
        brake.touch()
        time.sleep(PROOF_SECONDS)
        status, reason = ready(own)
        assert (status, client.default().ready) == (503, 2), reason
        with DigitsClient(own, timeout=0.5) as hurried, pytest.raises(UnreachableError, match="not answered in time"):
            hurried.predict(SMOKE[7])
        brake.unlink()
        wait_for(lambda: ready(own) == (200, "ready"))


HANGS = """

_read = Calibration.probabilities


def _hanging(*given):
    import os, time
    while os.path.exists({brake!r}):
        time.sleep(0.1)
    return _read(*given)


Calibration.probabilities = _hanging
"""


def test_an_answer_comes_in_one_piece(server: Config) -> None:
    """So that a supervisor that ends leaves no half of one."""
    with socket.create_connection(server.ports()["supervisor"]) as asking:
        asking.sendall(b"GET /live HTTP/1.0\r\n\r\n")
        assert asking.recv(1 << 16).endswith(b"\r\n\r\nlive\n")


def test_ready_never_lies_while_it_drains(own: Config) -> None:
    """Once a picture is refused there is no 200 any more."""
    said = []
    with (
        serving_client(own) as (process, _),
        under_load(Load(own, connections=12, picture=large_picture(), pause=0.05)),
    ):
        time.sleep(1)
        process.terminate()
        wait_for(lambda: not answers(own), 10)
        while process.poll() is None:
            with suppress(requests.ConnectionError):
                said.append(ready(own))
    assert (503, "draining: this server stops") in said
    assert {status for status, _ in said} == {503}
