"""State: the registered, promoted and scaled versions, as an immutable value; reads and writes served.json.

TorchServe writes a snapshot into logs/config on every change, before it responds to the request. The supervisor merges
these snapshots into one file, `served.json`, and removes them; a reader merges those that are still there. So no change
that TorchServe has confirmed is lost if any process is killed. (For two changes within one millisecond TorchServe
writes one snapshot: a kill then loses the other change, unless a later snapshot has both.)

The snapshots of TorchServe's start and stop are ignored: they contain no change, and may be incomplete.
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
    """Model name -> versions; `history` holds the successive defaults of `digits`, the current one last."""

    models: dict[str, Versions]
    history: tuple[str, ...] = ()
    applied: frozenset[str] = frozenset()  # names of the snapshots that it contains; the key in served.json is "folded"

    @property
    def versions(self) -> Versions:
        return self.models.get(MODEL, {})

    @property
    def default(self) -> str | None:
        return self.history[-1] if self.history else None

    @property
    def previous(self) -> str | None:
        """Version to which `rollback` returns."""
        return self.history[-2] if len(self.history) > 1 else None

    def apply_models(self, models: dict[str, Versions]) -> "State":
        """Return this state with the models that TorchServe serves now."""
        versions = models.get(MODEL, {})
        default = next((version for version, settings in versions.items() if settings["defaultVersion"]), None)
        history = [version for version in self.history if version in versions]
        if default in history:
            history = history[: history.index(default) + 1]  # a rollback shortens the history
        elif default is not None:
            history.append(default)
        return replace(self, models=models, history=tuple(history))

    def with_default(self, archive: Archive) -> "State":
        """Return this state with the archive's version as the default; a new version gets the archive's settings."""
        settings = self.versions.get(archive.version) or archive.settings | {"runtimeType": "python"}
        versions = self.versions | {archive.version: settings | {"marName": archive.path.name}}
        return self.with_versions(versions, archive.version)

    def with_versions(self, versions: Versions, default: str) -> "State":
        """Return this state with these versions of `digits`; other models stay."""
        fixed = {version: _fix_negative_counts(settings) for version, settings in versions.items()}
        return self.apply_models(self.models | {MODEL: _mark_default(fixed, default)})

    def drop_missing_archives(self, store: Path) -> tuple["State", list[str]]:
        """Return the state without versions whose archive is missing or changed, and messages about these."""
        messages: list[str] = []
        models: dict[str, Versions] = {}
        for name, versions in self.models.items():
            problems = {version: _find_archive_problem(store, versions[version]) for version in versions}
            missing = {version: problem for version, problem in problems.items() if problem}
            messages += [f"{name} {version} is no longer served: {problem}" for version, problem in missing.items()]
            if rest := {version: versions[version] for version in versions if version not in missing}:
                models[name] = rest
        rest = models.get(MODEL, {})
        if rest and self.default not in rest:
            earlier = [version for version in self.history if version in rest]
            default = earlier[-1] if earlier else max(rest, key=make_sort_key)
            messages.append(f"the default is now {MODEL} {default}")
            models[MODEL] = _mark_default(rest, default)
        return self.apply_models(models), messages

    def make_snapshot(self) -> str:
        """Return TorchServe's `model_snapshot` property, in one line."""
        count = sum(len(versions) for versions in self.models.values())
        return json.dumps({"name": "served", "modelCount": count, "models": self.models})


def read_state(config: Config) -> State:
    """Return what the server here serves, or last served; an empty state if none has run."""
    snapshots = _read_snapshots(config)  # before the file, which names those merged in the meantime
    return _apply_snapshots(_read_file(config.state_file), snapshots)


def apply_new_snapshots(config: Config, state: State) -> State:
    """Return this state with the snapshots that TorchServe has written since."""
    snapshots = _read_snapshots(config)
    return _apply_snapshots(state, snapshots) if snapshots else state


def write_state(config: Config, state: State) -> None:
    """Write the state to the disk, then remove the snapshots that it contains."""
    text = json.dumps({"history": state.history, "models": state.models, "folded": sorted(state.applied)}, indent=2)
    write_atomic(config.state_file, f"{text}\n".encode())
    for name in state.applied:
        (_get_snapshot_folder(config) / name).unlink(missing_ok=True)


def discard_snapshots(config: Config) -> None:
    """Remove the remaining snapshots: incomplete ones of a killed server, those of starts and stops."""
    for path in _get_snapshot_folder(config).glob("*.cfg"):
        path.unlink(missing_ok=True)


def _apply_snapshots(state: State, snapshots: dict[str, dict[str, Versions]]) -> State:
    for name in sorted(snapshots.keys() - state.applied):
        state = state.apply_models(snapshots[name])
    return replace(state, applied=frozenset(snapshots))


def _mark_default(versions: Versions, default: str) -> Versions:
    return {version: settings | {"defaultVersion": version == default} for version, settings in versions.items()}


def _find_archive_problem(store: Path, settings: dict[str, Any]) -> str | None:
    path = store / settings["marName"]
    if not path.is_file():
        return f"{path} is missing; put it back and register it again"
    if is_changed(path):
        return f"{path} differs from the SHA-256 beside it; remove it, run `make archive` and register it again"
    return None


def _read_file(path: Path) -> State:
    try:
        state = json.loads(path.read_text())
        if not isinstance(state, dict) or not state.keys() >= {"history", "models", "folded"}:
            raise ValueError("expected an object with history, models and folded")
        for settings in (value for versions in state["models"].values() for value in versions.values()):
            _check_settings(settings)
        return State(state["models"], tuple(state["history"]), frozenset(state["folded"]))
    except FileNotFoundError:
        return State({})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServingError(f"{path}: cannot be read ({error}); correct it, or remove it to start with 1.0") from error


def _check_settings(settings: dict[str, Any]) -> None:
    for name, kind in {"marName": str, "defaultVersion": bool, "minWorkers": int, "maxWorkers": int}.items():
        if not isinstance(settings.get(name), kind):
            raise ValueError(f"{name} is {settings.get(name)!r}; expected {kind.__name__}")


def _get_snapshot_folder(config: Config) -> Path:
    return config.logs / "config"


def _read_snapshots(config: Config) -> dict[str, dict[str, Versions]]:
    """Return the models by name of every complete snapshot of a change; names sort by time."""
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
    """Return the models of a snapshot, a Java properties file; None if it is incomplete."""
    try:
        models: dict[str, Versions] = json.loads(javaproperties.loads(text)["model_snapshot"])["models"]
    except (ValueError, LookupError):
        return None
    return {name: {key: _fix_negative_counts(value) for key, value in model.items()} for name, model in models.items()}


def _fix_negative_counts(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace negative numbers, which TorchServe 0.12.0 accepts over the API but cannot start with."""
    return settings | {name: 1 for name in _COUNTS if settings.get(name, 0) < 0}
