"""serving/supervisor.py: its decisions, with a stand-in for TorchServe, in milliseconds."""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from digits_client.exceptions import DigitsError
from digits_client.management import wait_idle
from serving import supervisor as supervising
from serving.config import Config, ServingError
from serving.http_server import HttpApp
from serving.signals import ShutdownRequest
from serving.state import State, read_state, write_state
from tests.servers import configure_with_archives
from tests.snapshots import make_versions, write_snapshot
from tests.stand_ins import ScriptedStop, Step, Supervised


@pytest.fixture(autouse=True)
def isolate_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace HTTP server, metrics, ports and tokens, which other tests cover."""
    client = SimpleNamespace(list_versions=dict, get_default=lambda: SimpleNamespace(version=""))
    monkeypatch.setattr(HttpApp, "run_in_thread", lambda *_: nullcontext())
    monkeypatch.setattr(supervising, "check_ports", lambda _: None)
    monkeypatch.setattr("serving.supervisor_metrics.SupervisorMetrics.poll_in_thread", lambda *_: nullcontext())
    monkeypatch.setattr("serving.tokens.Tokens.revoke_inference_token", lambda _: None)
    monkeypatch.setattr("serving.tokens.Tokens.open_client", lambda _: nullcontext(client))
    monkeypatch.setattr(supervising, "wait_idle", lambda *_: True)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A folder with archives of 1.0 and 1.1."""
    return configure_with_archives(tmp_path, "1.0", "1.1")


@pytest.fixture
def promoted(config: Config) -> Config:
    """The configuration, with a saved state where 1.1 is promoted from 1.0."""
    write_state(config, State({"digits": make_versions("1.1", "1.0", "1.1")}, ("1.0", "1.1")))
    return config


def do_nothing() -> None:
    pass


def test_the_first_start_serves_1_0_announces_ready_once_and_saves_its_state(config: Config) -> None:
    supervised = Supervised(config)
    supervised.run(do_nothing, do_nothing)
    [server] = supervised.servers
    assert (server.state.default, server.killed, server.stopped, supervised.ready_calls) == ("1.0", True, True, 1)
    assert server.environment["DIGITS_REQUEST_LOG_LEVEL"] == "info"
    assert read_state(config).default == "1.0"


def test_a_named_version_becomes_the_default_once_it_is_ready(promoted: Config) -> None:
    Supervised(promoted, "1.0").run()
    assert (read_state(promoted).default, read_state(promoted).previous) == ("1.0", None)
    with pytest.raises(ServingError, match=r"digits-9\.9\.mar: no such archive in"):
        Supervised(promoted, "9.9").run()


def test_a_named_version_that_never_becomes_ready_is_not_saved(promoted: Config) -> None:
    supervised = Supervised(promoted, "1.0")
    supervised.problem = "0 of 2 workers of digits 1.0 are READY"
    supervised.run(lambda: write_snapshot(promoted, 1, "1.0", "1.0", "1.1"))
    assert supervised.servers[0].state.default == "1.0"
    assert supervised.servers[0].stopped
    assert read_state(promoted).default == "1.1"


def test_a_server_that_dies_is_restarted_with_its_last_state(
    promoted: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change made by curl a moment ago is only in TorchServe's snapshot."""

    def change_and_die() -> None:
        write_snapshot(promoted, 1, "1.0", "1.0", "1.1")
        supervised.die()

    supervised = Supervised(promoted)
    supervised.run(change_and_die, do_nothing, do_nothing)
    first, second = supervised.servers
    assert (first.stopped, first.state.default, second.state.default) == (True, "1.1", "1.0")
    errors = capsys.readouterr().err
    assert "TorchServe exited with code -9; restarting it" in errors
    assert errors.count("READY again") == 1
    assert supervised.supervisor.metrics.registry.get_sample_value("digits_server_restarts_total") == 1


def test_restart_delays_grow_and_the_sixth_exit_is_an_error(promoted: Config) -> None:
    supervised, steps = Supervised(promoted), list[Step]()
    for _ in range(6):
        steps += [supervised.die, do_nothing]
    stop = ScriptedStop(*steps)
    with pytest.raises(ServingError, match=r"with code -9, for the 6th time in 0 s; see logs/torchserve\.log"):
        supervised.supervisor.run(ShutdownRequest(stop=stop))
    assert [wait for wait in stop.waits if wait != supervising.WAIT_SECONDS] == [0, 1, 2, 3, 4]
    assert len(supervised.servers) == 6


def test_exits_long_ago_do_not_count(promoted: Config) -> None:
    supervised = Supervised(promoted)
    supervised.supervisor.restart_limit.exits.extend([time.monotonic() - supervising.RESTART_WINDOW_SECONDS - 1] * 5)
    supervised.run(supervised.die, do_nothing, do_nothing)
    assert (len(supervised.servers), len(supervised.supervisor.restart_limit.exits)) == (2, 1)


def test_a_stop_during_a_restart_loses_no_change(promoted: Config) -> None:
    def change_and_stop() -> None:
        write_snapshot(promoted, 1, "1.0", "1.0", "1.1")
        supervised.problem = "TorchServe does not answer yet"

    supervised = Supervised(promoted)
    supervised.run(supervised.die, change_and_stop)
    assert read_state(promoted).default == "1.0"


def test_an_exit_during_the_start_is_an_error_and_loses_no_change(promoted: Config) -> None:
    write_snapshot(promoted, 1, "1.0", "1.0", "1.1")  # of a server killed earlier
    supervised = Supervised(promoted)
    supervised.problem = "TorchServe does not answer yet"
    with pytest.raises(ServingError, match="TorchServe exited while starting, with code 1; its output: some lines"):
        supervised.run(lambda: supervised.die(1), do_nothing)
    assert read_state(promoted).default == "1.0"
    assert supervised.servers[0].stopped


def test_a_server_that_never_becomes_ready_is_an_error(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "READY_SECONDS", -1.0)
    supervised = Supervised(config)
    supervised.problem = supervised.partial = "0 of 2 workers of digits 1.0 are READY"
    with pytest.raises(ServingError, match=r"not ready after -1 s: 0 of 2 workers of digits 1\.0 are READY"):
        supervised.run()


def test_a_server_with_some_of_its_workers_continues(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervising, "READY_SECONDS", -1.0)
    supervised = Supervised(config)
    supervised.problem = "1 of 2 workers of digits 1.0 are READY"
    supervised.run()
    assert supervised.ready_calls == 1
    assert "continuing: 1 of 2 workers of digits 1.0 are READY" in capsys.readouterr().err


def test_a_failed_write_is_reported_once_and_retried(promoted: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder in place of the state's temporary file, since root could write a read-only file."""

    def block() -> None:
        write_snapshot(promoted, 1, "1.0", "1.0", "1.1")
        blocked.mkdir()
        (blocked / "x").touch()

    def unblock() -> None:
        assert read_state(promoted).default == "1.0"  # by the snapshot
        (blocked / "x").unlink()
        blocked.rmdir()

    blocked = promoted.folder / f".{promoted.state_file.name}.{os.getpid()}.tmp"
    Supervised(promoted).run(block, do_nothing, unblock, do_nothing)
    assert capsys.readouterr().err.count("changes are not kept:") == 1
    assert not list((promoted.logs / "config").glob("*-snapshot.cfg"))
    assert read_state(promoted).default == "1.0"


@pytest.mark.parametrize(
    ("is_skipped", "message"), [(True, "stopping at once"), (False, "stopping with requests in progress")]
)
def test_a_drain_ends_with_a_second_ctrl_c_or_its_timeout(
    is_skipped: bool, message: str, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stand-in client lists no version."""
    monkeypatch.setattr(supervising, "wait_idle", wait_idle)
    request = ShutdownRequest(stop=ScriptedStop())
    if is_skipped:
        request.skip_drain.set()
    else:
        monkeypatch.setattr(supervising, "DRAIN_SECONDS", 0.0)
    supervised = Supervised(config)
    supervised.supervisor.run(request)
    assert message in capsys.readouterr().err
    assert (supervised.servers[0].killed, supervised.servers[0].stopped) == (False, True)
    assert supervised.supervisor.readiness.is_draining


def test_a_server_that_cannot_be_drained_is_stopped(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise DigitsError("no")

    monkeypatch.setattr("serving.tokens.Tokens.revoke_inference_token", fail)
    supervised = Supervised(config)
    supervised.run()
    assert supervised.servers[0].stopped
    assert "stopping without draining: no" in capsys.readouterr().err
