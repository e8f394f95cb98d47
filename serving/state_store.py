"""Track the state while the server runs, save every change, and retry a save that failed."""

import threading
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from digits_client.exceptions import DigitsError
from digits_client.management import ManagementClient
from digits_client.types import Version
from serving.archive import check_archive, get_archive_path, read_settings
from serving.config import FIRST_VERSION, Config
from serving.state import State, Versions, apply_new_snapshots, discard_snapshots, read_state, write_state
from serving.worker_activity import measure_activity


class StateStore:
    """The served state, in memory and on the disk; thread-safe.

    Changes come from TorchServe's snapshots and from the management API, which also lists changes whose snapshot could
    not be written. A change that cannot be saved is retried; until then `problem` gives the reason.
    """

    def __init__(self, config: Config, registry: CollectorRegistry, log: Callable[[str], None]) -> None:
        self.config, self.log = config, log
        self.state = self.saved = State({})
        self.listing: tuple[str, Versions] | None = None  # default and versions that the API listed last
        self.problem: str | None = None
        self.unverified = False  # while the chosen state differs from the saved one and is not READY yet
        self.lock = threading.Lock()
        text = "1 if a restart would serve the same state, else 0"
        gauge = Gauge("digits_state_kept", text, registry=registry)
        gauge.set_function(lambda: self.problem is None)

    def load_state(self) -> None:
        """Read the saved state, including the snapshots of a killed server."""
        self.state = read_state(self.config)
        if self.state.applied:
            write_state(self.config, self.state)
        self.saved = self.state
        discard_snapshots(self.config)  # incomplete ones of a killed server

    def choose_state(self, version: str | None) -> State:
        """Return the state to serve, with `version` as the default if given; `confirm_state` saves it."""
        state = self.drop_missing_archives()
        default = version or state.default or FIRST_VERSION
        if default != state.default:
            archive = check_archive(self.config.model_store, get_archive_path(self.config.model_store, default).name)
            state = state.with_default(archive)
        with self.lock:
            self.unverified, self.state = state != self.saved, state
        return state

    def drop_missing_archives(self) -> State:
        """Return the state without missing or changed archives, for a new TorchServe; log which were dropped."""
        state, messages = self.state.drop_missing_archives(self.config.model_store)
        self.listing = None
        for message in messages:
            self.log(message)
        return state

    def confirm_state(self) -> None:
        """Save the chosen state, which is READY by now, and the changes made since."""
        with self.lock:
            self.unverified = False
            self._write_if_changed()

    def save_snapshots(self) -> None:
        """Save the changes in TorchServe's new snapshots."""
        with self.lock:
            self.state = apply_new_snapshots(self.config, self.state)
            self._write_if_changed()

    def save_listing(self, versions: dict[str, Version], default: str) -> None:
        """Save the changes between the last listing of the API, or the start of TorchServe, and this one.

        A version that a new TorchServe does not list is not removed: a full disk may have prevented its loading.
        """
        with self.lock:
            if self.unverified:
                return
            listed = {name: _get_settings(version) for name, version in versions.items()}
            previous_default, previous = self.listing or self._expect_listing(listed, default)
            self.listing = default, listed
            changed = {name: settings for name, settings in listed.items() if previous.get(name) != settings}
            removed = previous.keys() - listed.keys()
            if changed or default != previous_default or removed:
                known = {name: saved for name, saved in self.state.versions.items() if name not in removed}
                added = {name: self._complete_settings(name, settings) for name, settings in changed.items()}
                self.state = self.state.with_versions(known | added, default)
            self._write_if_changed()

    def describe_state(self, client: ManagementClient) -> dict[str, Any]:
        """Save what the API lists now; return the fields of /state (digits_client/status.py)."""
        self.save_snapshots()
        try:
            versions = client.list_versions()
            self.save_listing(versions, client.get_default().version)
        except DigitsError:  # TorchServe is starting, or hangs
            versions = {}
        workers = ("min_workers", "minWorkers"), ("max_workers", "maxWorkers")
        with self.lock:
            return {
                "default": self.state.default,
                "previous": self.state.previous,
                "versions": {
                    name: {field: settings[key] for field, key in workers}
                    for name, settings in self.state.versions.items()
                },
                "problem": self.problem or ("the server is starting" if self.unverified else None),
                "work": measure_activity(versions.values()),
            }

    def save_final_state(self) -> None:
        """Save the last changes of a server that has ended."""
        if self.unverified:
            discard_snapshots(self.config)
        else:
            self.save_snapshots()
            if self.problem:
                self.log(f"the last changes are lost: {self.problem}")

    def _expect_listing(self, listed: Versions, default: str) -> tuple[str, Versions]:
        """Return what the API would list if these versions were unchanged since they were saved."""
        saved = {name: settings for name, settings in self.state.versions.items() if name in listed}
        expected = {name: {key: settings.get(key) for key in listed[name]} for name, settings in saved.items()}
        return self.state.default if self.state.default in listed else default, expected

    def _complete_settings(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the saved settings of a version, else its archive's, updated with what the API lists."""
        saved = self.state.versions.get(name) or read_settings(self.config.model_store / settings["marName"])
        return saved | settings

    def _write_if_changed(self) -> None:
        if self.unverified or self.state == self.saved:
            return
        try:
            write_state(self.config, self.state)
            self.saved, self.problem = self.state, None
        except OSError as error:
            problem = f"{self.config.state_file}: {error.strerror or error}"
            if problem != self.problem:
                self.log(f"changes are not kept: {problem}")
            self.problem = problem


def _get_settings(version: Version) -> dict[str, Any]:
    """Return what the API lists of a version, under the names of TorchServe's snapshots."""
    return {
        "marName": version.archive,
        "minWorkers": version.min_workers,
        "maxWorkers": version.max_workers,
        "batchSize": version.batch_size,
        "maxBatchDelay": version.max_batch_delay,
    }
