"""serving/state.py: changes in TorchServe's snapshots are kept, in whatever order processes die."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from serving.archive import Archive
from serving.config import Config, ServingError
from serving.state import State, discard_snapshots, read_state, write_state
from tests.archives import provide_archive
from tests.servers import configure_free_ports
from tests.snapshots import make_versions, write_snapshot


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "logs" / "config").mkdir(parents=True)
    return configure_free_ports(tmp_path, tmp_path / "model_store")


def test_snapshots_are_applied_in_the_order_of_their_names(config: Config) -> None:
    write_snapshot(config, 3, "1.1", "1.0", "1.1", "1.2")
    write_snapshot(config, 1, "1.0", "1.0")
    write_snapshot(config, 2, "1.2", "1.0", "1.1", "1.2")
    state = read_state(config)
    assert (state.default, state.previous, state.history) == ("1.1", "1.2", ("1.0", "1.2", "1.1"))
    assert set(state.versions) == {"1.0", "1.1", "1.2"}


def test_a_rollback_shortens_the_history_and_a_removed_version_leaves_it() -> None:
    state = State({})
    for default, names in (("1.0", ["1.0"]), ("1.1", ["1.0", "1.1"]), ("1.2", ["1.0", "1.1", "1.2"])):
        state = state.apply_models({"digits": make_versions(default, *names)})
    assert state.history == ("1.0", "1.1", "1.2")
    assert state.apply_models({"digits": make_versions("1.1", "1.0", "1.1", "1.2")}).history == ("1.0", "1.1")
    assert state.apply_models({"digits": make_versions("1.2", "1.0", "1.2")}).previous == "1.0"
    assert state.apply_models({}).default is None


@pytest.mark.parametrize("kept", [0, 1, 2], ids=["all snapshots left", "one left", "none left"])
@pytest.mark.parametrize("written", [False, True])
def test_applying_snapshots_may_be_interrupted_anywhere(written: bool, kept: int, config: Config) -> None:
    """Also between writing the state and removing its snapshots: no snapshot is applied twice."""
    paths = [write_snapshot(config, 1, "1.1", "1.0", "1.1"), write_snapshot(config, 2, "1.0", "1.0", "1.1")]
    before = read_state(config)
    texts = [path.read_text() for path in paths]
    if written:
        write_state(config, before)
        for path, text in list(zip(paths, texts, strict=True))[kept:]:
            path.write_text(text)
    after = read_state(config)
    assert (after.models, after.history) == (before.models, before.history)


def test_an_incomplete_snapshot_is_ignored_and_does_not_hide_the_others(config: Config) -> None:
    write_snapshot(config, 1, "1.0", "1.0")
    whole = write_snapshot(config, 2, "1.1", "1.0", "1.1")
    text = whole.read_text()
    for length in range(0, len(text) - 8, 7):
        whole.write_text(text[:length])
        assert read_state(config).default == "1.0"
        assert read_state(config).applied == {"20261123150333741-snapshot.cfg"}
    discard_snapshots(config)
    assert not list((config.logs / "config").iterdir())


def test_negative_numbers_are_replaced_because_they_would_prevent_a_start(config: Config) -> None:
    """`PUT /models/digits?min_worker=-1` leaves them, for example."""
    path = write_snapshot(config, 1, "1.0", "1.0")
    path.write_text(path.read_text().replace('"minWorkers"\\: 2', '"minWorkers"\\: -1, "maxBatchDelay"\\: -10000'))
    settings = read_state(config).versions["1.0"]
    assert (settings["minWorkers"], settings["maxWorkers"], settings["maxBatchDelay"]) == (1, 2, 1)


def test_a_state_is_written_in_full_or_not_at_all(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    write_snapshot(config, 1, "1.0", "1.0")
    write_state(config, read_state(config))
    before = config.state_file.read_bytes()

    def raise_full(_: int) -> None:
        raise OSError("no space left on device")

    write_snapshot(config, 2, "1.1", "1.0", "1.1")
    monkeypatch.setattr(os, "fsync", raise_full)
    with pytest.raises(OSError, match="no space"):
        write_state(config, read_state(config))
    assert config.state_file.read_bytes() == before
    assert not list(config.folder.glob(".*.tmp"))
    assert read_state(config).default == "1.1"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", '{"models": {}}'),
        '{"models": {"digits": {"1.0": {}}}, "history": [], "folded": []}',
        '{"models": {"digits": "1.0"}, "history": [], "folded": []}',
    ],
)
def test_an_unreadable_state_is_an_error_that_names_it(text: str, config: Config) -> None:
    config.state_file.write_text(text)
    with pytest.raises(
        ServingError, match=r"served\.json: cannot be read .*; correct it, or remove it to start with 1\.0"
    ):
        read_state(config)


def test_missing_archives_are_reported_and_the_default_moves_to_the_previous_one(config: Config) -> None:
    for version in ("1.0", "1.1"):
        provide_archive(version, config.model_store)
    state = State(
        {"digits": make_versions("1.2", "1.0", "1.1", "1.2"), "other": make_versions("9", "9")}, ("1.1", "1.0", "1.2")
    )
    rest, messages = state.drop_missing_archives(config.model_store)
    assert (rest.default, rest.previous, set(rest.versions), set(rest.models)) == (
        *("1.0", "1.1", {"1.0", "1.1"}, {"digits"}),
    )
    assert len(messages) == 3
    assert messages[0].startswith("digits 1.2 is no longer served:")
    assert messages[2] == "the default is now digits 1.0"
    assert state.drop_missing_archives(config.model_store)[0] == rest


def test_a_requested_default_keeps_its_scaling(config: Config) -> None:
    settings: dict[str, Any] = {"minWorkers": 1, "maxWorkers": 1}
    archive = Archive(config.model_store / "digits-1.1.mar", "1.1", settings)
    new = State({"digits": make_versions("1.0", "1.0")}, ("1.0",)).with_default(archive)
    assert (new.default, new.previous, new.versions["1.1"]["minWorkers"]) == ("1.1", "1.0", 1)
    known = State({"digits": make_versions("1.0", "1.0", "1.1")}, ("1.0",)).with_default(archive)
    assert (known.default, known.versions["1.1"]["minWorkers"]) == ("1.1", 2)
    assert [settings["defaultVersion"] for settings in known.versions.values()] == [False, True]
    assert json.loads(known.make_snapshot())["modelCount"] == 2
