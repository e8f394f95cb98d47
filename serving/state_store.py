"""StateKeeper: keeps what is registered, promoted and scaled, and says so where it cannot."""

import threading
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from digits_client.exceptions import DigitsError
from digits_client.management import ManagementClient
from digits_client.types import Version
from serving.archive import check_archive, get_archive_path, read_settings
from serving.config import Config
from serving.cpu_time import measure_cpu_time
from serving.state import State, Versions, apply_new_snapshots, discard_snapshots, read_state, write_state

FIRST_VERSION = "1.0"  # served where nothing has been before


class StateStore:
    """The state on the disk, for a supervisor and its HTTP server. May be shared by threads.

    Changes come from TorchServe's snapshots, which are there before it answers the request that made the change, and
    from the management API, which also lists changes whose snapshot could not be written. A change that cannot be
    written stays in memory and is tried again; `problem` says why until it succeeds.
    """

    def __init__(self, config: Config, registry: CollectorRegistry, log: Callable[[str], None]) -> None:
        self.config, self.log = config, log
        self.state = self.saved = State({})
        self.listing: tuple[str, Versions] | None = None  # default and versions, as the API listed them last
        self.problem: str | None = None
        self.unproven = False  # while other versions than those kept are started and have not answered yet
        self.lock = threading.Lock()
        kept = Gauge("digits_state_kept", "1 if a restart would serve what is served now, else 0", registry=registry)
        kept.set_function(lambda: self.problem is None)

    def load_state(self) -> None:
        """Read what was served before, also what a killed server has left."""
        self.state = read_state(self.config)
        if self.state.folded:
            write_state(self.config, self.state)
        self.saved = self.state
        discard_snapshots(self.config)  # what a killed server did not write to its end

    def choose_state(self, version: str | None) -> State:
        """Choose what to serve: as before, with `version` as the default if it is named; kept once it is accepted."""
        state = self.drop_missing_archives()
        wanted = version or state.default or FIRST_VERSION
        if wanted != state.default:
            archive = check_archive(self.config.model_store, get_archive_path(self.config.model_store, wanted).name)
            state = state.with_default(archive)
        with self.lock:
            self.unproven, self.state = state != self.saved, state
        return state

    def drop_missing_archives(self) -> State:
        """Return the state without archives that vanished or changed; what a new TorchServe is started with."""
        state, lines = self.state.drop_missing_archives(self.config.model_store)
        self.listing = None
        for line in lines:
            self.log(line)
        return state

    def confirm_state(self) -> None:
        """Keep what was chosen and has answered, with what promote, rollback and the like have changed since."""
        with self.lock:
            self.unproven = False
            self._write_if_changed()

    def save_snapshots(self) -> None:
        """Keep what TorchServe has written since the last time."""
        with self.lock:
            self.state = apply_new_snapshots(self.config, self.state)
            self._write_if_changed()

    def save_listing(self, versions: dict[str, Version], default: str) -> None:
        """Keep what has changed since the API listed its versions the last time, or since a TorchServe was started.

        What a new TorchServe does not list is not unregistered: a full disk may have kept it from loading that version.
        """
        with self.lock:
            if self.unproven:
                return
            listed = {name: _get_settings(version) for name, version in versions.items()}
            default_before, before = self.listing or self._expect_listing(listed, default)
            self.listing = default, listed
            changed = {name: settings for name, settings in listed.items() if before.get(name) != settings}
            if changed or default != default_before or before.keys() - listed.keys():
                known = {
                    name: kept for name, kept in self.state.versions.items() if name in listed or name not in before
                }
                added = {name: self._complete_settings(name, settings) for name, settings in changed.items()}
                self.state = self.state.with_versions(known | added, default)
            self._write_if_changed()

    def describe_state(self, client: ManagementClient) -> dict[str, Any]:
        """Keep what the API lists now; return the fields of /state (digits_client/status.py)."""
        self.save_snapshots()
        try:
            versions = client.list_versions()
            self.save_listing(versions, client.get_default().version)
        except DigitsError:  # TorchServe starts, or hangs
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
                "problem": self.problem or ("the server is starting" if self.unproven else None),
                "work": measure_cpu_time(versions.values()),
            }

    def save_final_state(self) -> None:
        """Keep the last changes of a server that has ended."""
        if self.unproven:
            discard_snapshots(self.config)
        else:
            self.save_snapshots()
            if self.problem:
                self.log(f"the last changes are lost: {self.problem}")

    def _expect_listing(self, listed: Versions, default: str) -> tuple[str, Versions]:
        """Return what the API would list of these versions if nothing had changed since they were kept."""
        kept = {name: settings for name, settings in self.state.versions.items() if name in listed}
        expected = {name: {key: settings.get(key) for key in listed[name]} for name, settings in kept.items()}
        return self.state.default if self.state.default in listed else default, expected

    def _complete_settings(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Return TorchServe's settings of a version: as they were kept, else its archive's, with what the API lists."""
        kept = self.state.versions.get(name) or read_settings(self.config.model_store / settings["marName"])
        return kept | settings

    def _write_if_changed(self) -> None:
        if self.unproven or self.state == self.saved:
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
    """Return what the API lists of a version, as TorchServe's snapshots call it."""
    return {
        "marName": version.archive,
        "minWorkers": version.min_workers,
        "maxWorkers": version.max_workers,
        "batchSize": version.batch_size,
        "maxBatchDelay": version.max_batch_delay,
    }
