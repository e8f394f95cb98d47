"""serving/state_keeper.py: changes are kept from snapshots and from what the API lists, also after a full disk."""

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
from tests.servers import configure_free_ports, with_archives
from tests.snapshots import make_versions, write_snapshot


def make_version(name: str, workers: int = 1) -> Version:
    return Version(name, f"digits-{name}.mar", (), workers, workers, 16, 1, 0, 512)


class Kept:
    """A keeper that has accepted 1.0 and 1.1 with the default 1.0, and was shown a listing of them."""

    def __init__(self, config: Config) -> None:
        self.lines: list[str] = []
        self.registry, self.config = CollectorRegistry(), config
        self.keeper = StateStore(config, self.registry, self.lines.append)
        self.keeper.load_state()
        self.keeper.state = self.keeper.state.apply_models({"digits": make_versions("1.0", "1.0", "1.1")})
        self.keeper.confirm_state()
        self.versions = {name: make_version(name) for name in ("1.0", "1.1")}
        self.show("1.0")

    def show(self, default: str, **changes: Any) -> None:
        self.versions |= changes
        self.keeper.save_listing(self.versions, default)

    def get_metric(self) -> float | None:
        return self.registry.get_sample_value("digits_state_kept")


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    (tmp_path / "logs" / "config").mkdir(parents=True)
    return Kept(with_archives(tmp_path, "1.0", "1.1", "1.2"))


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_changes_without_a_snapshot_are_kept(kept: Kept) -> None:
    kept.show("1.1", **{"1.0": make_version("1.0", 3), "1.2": make_version("1.2")})
    state = read_state(kept.config)
    assert (state.default, state.previous) == ("1.1", "1.0")
    assert state.versions["1.0"]["minWorkers"] == 3
    assert state.versions["1.2"]["responseTimeout"] == 60  # of its archive: the API does not list it here
    del kept.versions["1.2"]
    kept.show("1.0")
    assert set(read_state(kept.config).versions) == {"1.0", "1.1"}
    assert read_state(kept.config).history == ("1.0",)


def test_a_version_that_torchserve_could_not_load_is_not_unregistered(kept: Kept) -> None:
    kept.keeper.drop_missing_archives()  # TorchServe is started again, on a full disk
    del kept.versions["1.1"]
    for _ in range(2):
        kept.show("1.0")
    kept.show("1.0", **{"1.0": make_version("1.0", 2)})
    assert set(read_state(kept.config).versions) == {"1.0", "1.1"}


def test_a_change_that_cannot_be_written_is_named_until_it_is(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_state", fail)
        for _ in range(2):
            kept.show("1.1")
            kept.keeper.save_snapshots()
        assert kept.keeper.problem == f"{kept.config.state_file}: No space left on device"
        assert kept.lines == [f"changes are not kept: {kept.keeper.problem}"]
        assert kept.get_metric() == 0
        assert read_state(kept.config).default == "1.0"
    kept.keeper.save_snapshots()
    assert read_state(kept.config).default == "1.1"
    assert kept.keeper.problem is None
    assert kept.get_metric() == 1


def test_a_supervisor_that_ends_says_what_is_lost(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "write_state", fail)
    kept.show("1.1")
    kept.keeper.save_final_state()
    assert kept.lines[-1] == f"the last changes are lost: {kept.config.state_file}: No space left on device"


def test_a_listing_repeats_what_a_snapshot_has_said(kept: Kept) -> None:
    write_snapshot(kept.config, 1, "1.1", "1.0", "1.1")
    kept.keeper.save_snapshots()
    state = kept.keeper.state
    kept.show("1.1")
    assert replace(kept.keeper.state, models=state.models) == state
    assert kept.keeper.state.history == ("1.0", "1.1")


def test_a_change_during_a_start_is_kept(kept: Kept) -> None:
    """/ready says so as soon as one worker answers; the supervisor waits for all of them."""
    kept.keeper.choose_state(None)
    write_snapshot(kept.config, 1, "1.1", "1.0", "1.1")
    kept.keeper.save_snapshots()
    assert read_state(kept.config).default == "1.1"
    kept.keeper.confirm_state()
    assert read_state(kept.config).default == "1.1"


def test_a_change_during_the_start_of_another_version_is_kept_when_that_has_answered(kept: Kept) -> None:
    kept.keeper.choose_state("1.2")
    kept.keeper.save_snapshots()
    assert read_state(kept.config).default == "1.0"
    assert kept.keeper.unproven
    write_snapshot(kept.config, 1, "1.1", "1.0", "1.1", "1.2")
    kept.keeper.save_snapshots()
    kept.keeper.confirm_state()
    assert read_state(kept.config).history == ("1.0", "1.2", "1.1")


def test_a_change_before_the_first_listing_of_a_new_torchserve_is_kept(kept: Kept) -> None:
    """It died and was started again on a full disk, so it has written no snapshot of the change."""
    kept.keeper.drop_missing_archives()
    kept.show("1.1", **{"1.2": make_version("1.2")})
    state = read_state(kept.config)
    assert (state.default, set(state.versions)) == ("1.1", {"1.0", "1.1", "1.2"})


def test_nothing_of_a_version_that_has_not_answered_is_kept(tmp_path: Path) -> None:
    config = with_archives(tmp_path, "1.0")
    keeper = StateStore(config, CollectorRegistry(), print)
    keeper.load_state()
    keeper.choose_state(None)
    keeper.save_listing({"1.0": make_version("1.0")}, "1.0")
    keeper.save_final_state()
    assert not configure_free_ports(tmp_path).state_file.exists()
