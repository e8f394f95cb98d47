"""What is registered, promoted and scaled, kept over restarts.

TorchServe writes a snapshot into logs/config at every change, before it answers the request that made it. These are
folded into one file, `served.json`, and removed; a reader folds those that are not in it yet. So what was answered is
not lost, whoever is killed when. (Of two changes in one millisecond TorchServe writes one snapshot: a kill then loses
the other, unless a later change has written both.)

The snapshots of TorchServe's start and end are left out: they say nothing new, and of an end amid a start, half of it.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import javaproperties

from common.atomic import write_atomic
from digits_client.types import make_sort_key
from serving.archive import Archive, is_changed
from serving.config import MODEL, Config, ServingError

_COUNTS = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay")

Versions = dict[str, dict[str, Any]]  # version -> TorchServe's settings: marName, minWorkers, defaultVersion, …


@dataclass(frozen=True)
class State:
    """Model name -> versions; `history` are the versions of `digits` that led to the default, which is its last."""

    models: dict[str, Versions]
    history: tuple[str, ...] = ()
    folded: frozenset[str] = frozenset()  # snapshots that this state contains

    @property
    def versions(self) -> Versions:
        return self.models.get(MODEL, {})

    @property
    def default(self) -> str | None:
        return self.history[-1] if self.history else None

    @property
    def previous(self) -> str | None:
        """What `rollback` returns to."""
        return self.history[-2] if len(self.history) > 1 else None

    def apply_models(self, models: dict[str, Versions]) -> "State":
        """This state after TorchServe has said what it serves now."""
        versions = models.get(MODEL, {})
        default = next((version for version, settings in versions.items() if settings["defaultVersion"]), None)
        history = [version for version in self.history if version in versions]
        if default in history:
            history = history[: history.index(default) + 1]  # a way back is not a way on
        elif default is not None:
            history.append(default)
        return replace(self, models=models, history=tuple(history))

    def with_default(self, archive: Archive) -> "State":
        """This state with the archive's version as the default; if it is new, run as its configuration says."""
        kept = self.versions.get(archive.version) or archive.settings | {"runtimeType": "python"}
        versions = self.versions | {archive.version: kept | {"marName": archive.path.name}}
        return self.with_versions(versions, archive.version)

    def with_versions(self, versions: Versions, default: str) -> "State":
        """Return this state with these versions of `digits`, whatever else is served."""
        mended = {version: _fix_negative_counts(settings) for version, settings in versions.items()}
        return self.apply_models(self.models | {MODEL: _mark_default(mended, default)})

    def drop_missing_archives(self, store: Path) -> tuple["State", list[str]]:
        """The part of it whose archives are in the store, unchanged; and what to tell of the rest."""
        told: list[str] = []
        models: dict[str, Versions] = {}
        for name, versions in self.models.items():
            lost = {
                version: problem for version in versions if (problem := _find_archive_problem(store, versions[version]))
            }
            told += [f"{name} {version} is not served any more: {problem}" for version, problem in lost.items()]
            if rest := {version: versions[version] for version in versions if version not in lost}:
                models[name] = rest
        rest = models.get(MODEL, {})
        if rest and self.default not in rest:
            left = [version for version in self.history if version in rest]
            default = left[-1] if left else max(rest, key=make_sort_key)
            told.append(f"the default is now {MODEL} {default}")
            models[MODEL] = _mark_default(rest, default)
        return self.apply_models(models), told

    def make_snapshot(self) -> str:
        """TorchServe's `model_snapshot`, in one line."""
        count = sum(len(versions) for versions in self.models.values())
        return json.dumps({"name": "served", "modelCount": count, "models": self.models})


def read_state(config: Config) -> State:
    """What is served here, or was when the server ended; empty if none has ever run."""
    snapshots = _read_snapshots(config)  # first: one that is folded meanwhile is then in the file, and named there
    return _apply_snapshots(_read_file(config.state_file), snapshots)


def apply_new_snapshots(config: Config, state: State) -> State:
    """Return this state after what TorchServe has written since."""
    snapshots = _read_snapshots(config)
    return _apply_snapshots(state, snapshots) if snapshots else state


def write_state(config: Config, state: State) -> None:
    """Keeps a state, then removes the snapshots that it contains."""
    text = json.dumps({"history": state.history, "models": state.models, "folded": sorted(state.folded)}, indent=2)
    write_atomic(config.state_file, f"{text}\n".encode())
    for name in state.folded:
        (_get_snapshot_folder(config) / name).unlink(missing_ok=True)


def discard_snapshots(config: Config) -> None:
    """Forgets what is not folded: half a file of a killed server, those of starts and ends."""
    for path in _get_snapshot_folder(config).glob("*.cfg"):
        path.unlink(missing_ok=True)


def _apply_snapshots(state: State, snapshots: dict[str, dict[str, Versions]]) -> State:
    for name in sorted(snapshots.keys() - state.folded):
        state = state.apply_models(snapshots[name])
    return replace(state, folded=frozenset(snapshots))


def _mark_default(versions: Versions, default: str) -> Versions:
    return {version: settings | {"defaultVersion": version == default} for version, settings in versions.items()}


def _find_archive_problem(store: Path, settings: dict[str, Any]) -> str | None:
    path = store / settings["marName"]
    if not path.is_file():
        return f"{path} has vanished; put it back and register it again"
    if is_changed(path):
        return f"{path} is not the archive whose SHA-256 is beside it; remove it, `make archive` and register it again"
    return None


def _read_file(path: Path) -> State:
    try:
        kept = json.loads(path.read_text())
        if not isinstance(kept, dict) or not kept.keys() >= {"history", "models", "folded"}:
            raise ValueError("expected an object with history, models and folded")
        for settings in (each for versions in kept["models"].values() for each in versions.values()):
            _check_settings(settings)
        return State(kept["models"], tuple(kept["history"]), frozenset(kept["folded"]))
    except FileNotFoundError:
        return State({})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServingError(f"{path}: cannot be read ({error}); mend it, or remove it to start anew") from error


def _check_settings(settings: dict[str, Any]) -> None:
    for name, kind in {"marName": str, "defaultVersion": bool, "minWorkers": int, "maxWorkers": int}.items():
        if not isinstance(settings.get(name), kind):
            raise ValueError(f"{name} is {settings.get(name)!r}; expected {kind.__name__}")


def _get_snapshot_folder(config: Config) -> Path:
    return config.logs / "config"


def _read_snapshots(config: Config) -> dict[str, dict[str, Versions]]:
    """Name -> models of every change's snapshot that is written to its end; names sort by time."""
    snapshots = {}
    for path in _get_snapshot_folder(config).glob("*-snapshot.cfg"):
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue
        if (models := _parse_models(text)) is not None:
            snapshots[path.name] = models
    return snapshots


def _parse_models(text: str) -> dict[str, Versions] | None:
    """The models of a snapshot, which is a Java properties file; None while it is half written."""
    try:
        models: dict[str, Versions] = json.loads(javaproperties.loads(text)["model_snapshot"])["models"]
    except (ValueError, LookupError):
        return None
    return {
        name: {version: _fix_negative_counts(each) for version, each in versions.items()}
        for name, versions in models.items()
    }


def _fix_negative_counts(settings: dict[str, Any]) -> dict[str, Any]:
    """TorchServe 0.12.0 takes negative numbers for these, and does not start with less than no worker."""
    return settings | {name: 1 for name in _COUNTS if settings.get(name, 0) < 0}
