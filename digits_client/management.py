"""Client of the management API: register, promote, roll back, scale and unregister versions without a lost request."""

import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from digits_client.client import DigitsClient
from digits_client.exceptions import ApiError, DigitsError, NotKeptError, UnexpectedResponseError, UnreachableError
from digits_client.smoke_test import Smoke, find_smoke_problem, parse_smoke
from digits_client.status import StatusClient
from digits_client.transport import (
    RETRIES,
    TIMEOUT,
    ApiClient,
    ClosingClient,
    Server,
    TokenSource,
    find_server,
    retry_repeatable,
)
from digits_client.types import Version, make_sort_key, parse_versions

LOAD_SECONDS = 120.0  # time limit for loading a version's workers
DRAIN_SECONDS = 30.0  # time limit for waiting until a version has no requests
IDLE_SECONDS = 0.3  # time without CPU use, beyond the batch delay, after which no request is in progress
POLL_SECONDS = 0.1  # interval between two looks at the workers
_MODEL = "/models/digits"
_ARCHIVE = re.compile(r"digits-([0-9A-Za-z][0-9A-Za-z._-]*)\.mar")


class ManagementClient(ClosingClient):
    """Manages the versions of a server, by default the one that runs in this checkout.

    `url` is its management address, `token` the management token, else DIGITS_MANAGEMENT_TOKEN, else that of a server
    on this machine. Smoke images go to the inference address by `inference_token`, which is found likewise.
    `certificate` is a PEM file: the one that the server must present, if no known authority has signed it. Every change
    ends by a look at the supervisor's /state: NotKeptError if a restart would lose it.

    Every method raises DigitsError where it does not succeed.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        inference_token: str | None = None,
        certificate: str | Path = "",
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        server: Server | None = None,
    ) -> None:
        server = server or find_server(url, "management")
        server = replace(server, certificate=str(certificate) or server.certificate)
        tokens = TokenSource("management", token, server)
        self.api = ApiClient(server.management, tokens, timeout, retry_repeatable(retries), server.certificate)
        self.inference = DigitsClient(token=inference_token, timeout=timeout, retries=retries, server=server)
        self.status = StatusClient(server=server, timeout=timeout, retries=retries)

    def list_versions(self) -> dict[str, Version]:
        """Return every registered version by its name."""
        try:
            listed = parse_versions(self.api.call_json("GET", f"{_MODEL}/all"))
        except ApiError as error:
            if error.status != 404:
                raise
            return {}
        return {version.version: version for version in listed}

    def get_default(self) -> Version:
        """Return the default version, which answers requests that name none."""
        return parse_versions(self.api.call_json("GET", _MODEL))[0]

    def get_version(self, version: str) -> Version:
        """Return a registered version; raise DigitsError, with the registered ones, if there is no such version."""
        versions = self.list_versions()
        if version not in versions:
            names = ", ".join(sorted(versions, key=make_sort_key)) or "none"
            raise DigitsError(f"{version} is not registered; these are: {names}")
        return versions[version]

    def register(self, archive: str) -> Version:
        """Register an archive with as many workers as the default, and run its smoke test.

        If registration or the smoke test fails, the version is unregistered; if only saving fails, it stays.
        """
        if not (named := _ARCHIVE.fullmatch(archive)):
            raise DigitsError(f"{archive}: not an archive name; expected digits-<version>.mar, in the server's store")
        version, default = named[1], self.get_default()
        workers, is_new = max(default.min_workers, len(default.workers)), version not in self.list_versions()
        query = {"url": archive, "initial_workers": str(workers), "synchronous": "false"}
        try:
            self.api.call("POST", "/models", params=query, timeout=LOAD_SECONDS)
            _set_workers(self, version, default.min_workers, default.max_workers)
            loaded = _check_version(self, version)
        except BaseException as error:  # Ctrl-C as well
            # After a conflict, the version is another client's.
            if is_new and getattr(error, "type", None) != "ConflictStatusException":
                with suppress(DigitsError):
                    self.api.request("DELETE", f"{_MODEL}/{version}")
            raise
        _confirm_kept(self.status, f"{version} is registered", lambda state: version in state["versions"])
        return loaded

    def promote(self, version: str) -> Version:
        """Make a registered version the default, after its workers have passed the smoke test once more."""
        return _set_default(self, _check_version(self, version))

    def rollback(self) -> Version:
        """Make the previous default version the default again.

        It has served, so this needs less than `promote`: one READY worker, and the smoke test if it has one.
        """
        previous = self.status.read_state()["previous"]
        if previous is None:
            raise DigitsError("no version to roll back to: the default is the first, or earlier ones are unregistered")
        loaded = _wait_loaded(self, previous, workers=1)
        try:
            smoke = self.read_smoke(loaded)
        except (UnexpectedResponseError, UnreachableError):  # an older archive or hung workers; it served before
            return _set_default(self, loaded)
        _run_smoke_test(self, loaded, smoke)
        return _set_default(self, loaded)

    def scale(self, min_workers: int, max_workers: int | None = None, version: str = "") -> Version:
        """Set the minimum and maximum number of workers of a version, or of the default; wait until they are READY.

        Removed workers lose their requests; this client retries its own, other callers get errors.
        """
        most = min_workers if max_workers is None else max_workers
        if not 1 <= min_workers <= most:
            raise DigitsError(
                f"at least {min_workers} and at most {most} workers; expected numbers from 1, the first not larger"
            )
        name = self.get_version(version).version if version else self.get_default().version
        _set_workers(self, name, min_workers, most)
        loaded, wanted = _wait_loaded(self, name), {"min_workers": min_workers, "max_workers": most}
        _confirm_kept(self.status, f"{name} is scaled", lambda state: state["versions"].get(name) == wanted)
        return loaded

    def unregister(self, version: str) -> None:
        """Unregister a version that is not the default after its last request; keep its archive."""
        registered = self.get_version(version)
        if version == self.get_default().version:
            raise DigitsError(f"{version} is the default; promote another version first")

        def read_work() -> object:
            return self.status.read_state()["work"].get(version)

        is_used = registered.ready or registered.pending
        if is_used and not wait_idle(lambda: [self.get_version(version)], read_work, DRAIN_SECONDS):
            raise DigitsError(f"{version} still gets requests from callers that name it; stop them first")
        self.api.call("DELETE", f"{_MODEL}/{version}")
        _confirm_kept(self.status, f"{version} is unregistered", lambda state: version not in state["versions"])

    def read_smoke(self, version: Version) -> Smoke:
        """Return the smoke images of a version, from its metadata."""
        path, query = f"{_MODEL}/{version.version}", {"customized": "true"}
        described = self.api.call_json("GET", path, params=query)
        return parse_smoke(described)


def wait_idle(
    read_versions: Callable[[], Iterable[Version]],
    read_work: Callable[[], object],
    seconds: float,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> bool:
    """Wait until no request to these versions is in progress; return False after `seconds` or if `is_cancelled()`.

    TorchServe does not report this. A request is in the queue, waits up to the batch delay for a batch to fill, or is
    in a worker, which then uses CPU time.
    """
    deadline = time.monotonic() + seconds
    idle_since, before = time.monotonic(), object()
    while time.monotonic() < deadline and not is_cancelled():
        versions, work = list(read_versions()), read_work()
        if work != before or any(version.pending for version in versions):
            idle_since, before = time.monotonic(), work
        longest = max((version.max_batch_delay for version in versions), default=0) / 1000
        if time.monotonic() - idle_since > longest + IDLE_SECONDS:
            return True
        time.sleep(POLL_SECONDS / 2)
    return False


def _set_workers(client: ManagementClient, version: str, min_workers: int, max_workers: int) -> None:
    query = {"min_worker": str(min_workers), "max_worker": str(max_workers)}
    client.api.call("PUT", f"{_MODEL}/{version}", params=query)


def _set_default(client: ManagementClient, version: Version) -> Version:
    name = version.version
    client.api.call("PUT", f"{_MODEL}/{name}/set-default")
    _confirm_kept(client.status, f"{name} is the default", lambda state: state["default"] == name)
    return version


def _wait_loaded(client: ManagementClient, version: str, workers: int | None = None) -> Version:
    """Wait until all workers of the version, or the given number, are READY."""
    deadline = time.monotonic() + LOAD_SECONDS
    while True:
        found = client.get_version(version)
        if found.ready >= (workers or max(len(found.workers), found.min_workers)):
            return found
        if time.monotonic() > deadline:
            raise DigitsError(
                f"{found.ready} of {found.min_workers} workers of {version} are READY after {LOAD_SECONDS:.0f} s; "
                "the server's logs/torchserve.log has what they printed"
            )
        time.sleep(POLL_SECONDS)


def _check_version(client: ManagementClient, version: str) -> Version:
    """Wait until all workers of the version are READY, run its smoke test, and return it."""
    loaded = _wait_loaded(client, version)
    _run_smoke_test(client, loaded, client.read_smoke(loaded))
    return loaded


def _run_smoke_test(client: ManagementClient, version: Version, smoke: Smoke) -> None:
    if problem := find_smoke_problem(client.inference, version.version, smoke):
        raise DigitsError(f"{version.version}: {problem}")


def _confirm_kept(status: StatusClient, done: str, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Raise NotKeptError if a restart would lose the change."""
    try:
        state = status.read_state()
    except (UnreachableError, ApiError) as error:
        raise NotKeptError(f"{done}, but the supervisor does not say whether a restart keeps that: {error}") from error
    if state["problem"] or not is_kept(state):
        problem = state["problem"] or "the supervisor does not know of it"
        raise NotKeptError(
            f"{done}, but a restart would lose that: {problem}; fix that, and the supervisor saves the change by itself"
        )
