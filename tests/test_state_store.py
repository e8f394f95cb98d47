"""serving/state_store.py: changes in snapshots and in the API's listing are saved, also after a full disk."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from digits_client.types import Version
from serving import state_store as module
from serving.config import Config
from serving.state import read_state
from serving.state_store import StateStore
from tests.servers import configure_free_ports, configure_with_archives
from tests.snapshots import make_versions, write_snapshot


def make_version(name: str, workers: int = 1) -> Version:
    return Version(name, f"digits-{name}.mar", (), workers, workers, 16, 1, 0, 512)


class Setup:
    """A store with 1.0, the default, and 1.1, and a listing of both."""

    def __init__(self, config: Config) -> None:
        self.lines: list[str] = []
        self.registry, self.config = CollectorRegistry(), config
        self.store = StateStore(config, self.registry, self.lines.append)
        self.store.load_state()
        self.store.state = self.store.state.apply_models({"digits": make_versions("1.0", "1.0", "1.1")})
        self.store.confirm_state()
        self.versions = {name: make_version(name) for name in ("1.0", "1.1")}
        self.list_versions("1.0")

    def list_versions(self, default: str, **changes: Any) -> None:
        self.versions |= changes
        self.store.save_listing(self.versions, default)

    def get_metric(self) -> float | None:
        return self.registry.get_sample_value("digits_state_kept")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    (tmp_path / "logs" / "config").mkdir(parents=True)
    return Setup(configure_with_archives(tmp_path, "1.0", "1.1", "1.2"))


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_changes_without_a_snapshot_are_saved(setup: Setup) -> None:
    setup.list_versions("1.1", **{"1.0": make_version("1.0", 3), "1.2": make_version("1.2")})
    state = read_state(setup.config)
    assert (state.default, state.previous) == ("1.1", "1.0")
    assert state.versions["1.0"]["minWorkers"] == 3
    assert state.versions["1.2"]["responseTimeout"] == 60  # from its archive, as the API does not list it
    del setup.versions["1.2"]
    setup.list_versions("1.0")
    assert set(read_state(setup.config).versions) == {"1.0", "1.1"}
    assert read_state(setup.config).history == ("1.0",)


def test_a_version_that_torchserve_could_not_load_is_not_unregistered(setup: Setup) -> None:
    setup.store.drop_missing_archives()  # TorchServe is restarted, on a full disk
    del setup.versions["1.1"]
    for _ in range(2):
        setup.list_versions("1.0")
    setup.list_versions("1.0", **{"1.0": make_version("1.0", 2)})
    assert set(read_state(setup.config).versions) == {"1.0", "1.1"}


def test_an_unsaved_change_is_reported_until_it_is_saved(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_state", fail)
        for _ in range(2):
            setup.list_versions("1.1")
            setup.store.save_snapshots()
        assert setup.store.problem == f"{setup.config.state_file}: No space left on device"
        assert setup.lines == [f"changes are not kept: {setup.store.problem}"]
        assert setup.get_metric() == 0
        assert read_state(setup.config).default == "1.0"
    setup.store.save_snapshots()
    assert read_state(setup.config).default == "1.1"
    assert setup.store.problem is None
    assert setup.get_metric() == 1


def test_a_supervisor_that_ends_reports_lost_changes(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "write_state", fail)
    setup.list_versions("1.1")
    setup.store.save_final_state()
    assert setup.lines[-1] == f"the last changes are lost: {setup.config.state_file}: No space left on device"


def test_a_listing_after_a_snapshot_changes_nothing(setup: Setup) -> None:
    write_snapshot(setup.config, 1, "1.1", "1.0", "1.1")
    setup.store.save_snapshots()
    state = setup.store.state
    setup.list_versions("1.1")
    assert replace(setup.store.state, models=state.models) == state
    assert setup.store.state.history == ("1.0", "1.1")


def test_a_change_during_a_start_is_saved(setup: Setup) -> None:
    """/ready is 200 as soon as one worker is READY; the supervisor waits for all of them."""
    setup.store.choose_state(None)
    write_snapshot(setup.config, 1, "1.1", "1.0", "1.1")
    setup.store.save_snapshots()
    assert read_state(setup.config).default == "1.1"
    setup.store.confirm_state()
    assert read_state(setup.config).default == "1.1"


def test_a_change_during_the_start_of_another_version_is_saved_once_that_is_ready(setup: Setup) -> None:
    setup.store.choose_state("1.2")
    setup.store.save_snapshots()
    assert read_state(setup.config).default == "1.0"
    assert setup.store.unverified
    write_snapshot(setup.config, 1, "1.1", "1.0", "1.1", "1.2")
    setup.store.save_snapshots()
    setup.store.confirm_state()
    assert read_state(setup.config).history == ("1.0", "1.2", "1.1")


def test_a_change_before_the_first_listing_of_a_new_torchserve_is_saved(setup: Setup) -> None:
    """It died and was restarted on a full disk, so it has written no snapshot of the change."""
    setup.store.drop_missing_archives()
    setup.list_versions("1.1", **{"1.2": make_version("1.2")})
    state = read_state(setup.config)
    assert (state.default, set(state.versions)) == ("1.1", {"1.0", "1.1", "1.2"})


def test_a_version_that_is_not_ready_is_not_saved(tmp_path: Path) -> None:
    config = configure_with_archives(tmp_path, "1.0")
    store = StateStore(config, CollectorRegistry(), print)
    store.load_state()
    store.choose_state(None)
    store.save_listing({"1.0": make_version("1.0")}, "1.0")
    store.save_final_state()
    assert not configure_free_ports(tmp_path).state_file.exists()
