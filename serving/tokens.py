"""TorchServe's tokens: published to callers in one piece, replaced after half of their life, revoked for a stop."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge

from common.atomic import ReservedFile, write_atomic
from digits_client.exceptions import DigitsError, UnreachableError
from digits_client.management import ManagementClient
from digits_client.transport import read_token
from serving.config import Config
from serving.torchserve import TorchServe

LOCK_TIMEOUT_SECONDS = 5.0  # a server that takes longer to answer is not ready
RETRY_SECONDS = 10.0  # after a rotation that failed
KEY_FILE_BYTES = 4096  # bytes; more than a key file has


class Tokens:
    """The tokens of the TorchServe that `get_server` returns.

    TorchServe writes its key file piece by piece, and a new token makes the old one invalid at once for everybody. So
    tokens change only while no client of `open_client` is in use, and only where the new ones can be written.
    """

    def __init__(
        self,
        config: Config,
        get_server: Callable[[], TorchServe | None],
        registry: CollectorRegistry,
        log: Callable[[str], None],
    ) -> None:
        self.config, self.get_server, self.log = config, get_server, log
        self.lock = threading.Lock()
        self.rotate_at = 0.0  # by the clock, as tokens expire
        self.expires_at = 0.0
        self.problem: str | None = None  # why callers cannot read the tokens
        self.warning: str | None = None  # why the tokens were not replaced when that was due
        self.rotations = Counter("digits_token_rotations", "changes of the tokens", registry=registry)
        for name, text, value in (
            ("digits_key_lifetime_seconds", "that tokens last", lambda: config.token_seconds),
            ("digits_key_expires_in_seconds", "until the tokens expire", lambda: self.expires_at - time.time()),
            ("digits_tokens_published", "1 if callers can read the tokens, else 0", lambda: self.problem is None),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def record_creation(self, when: float) -> None:
        """Note when the tokens were made; half of their life later they are replaced, with time left to retry."""
        self.rotate_at, self.expires_at = when + self.config.token_seconds / 2, when + self.config.token_seconds

    def publish_tokens(self) -> None:
        """Give callers the current tokens."""
        server = self.get_server()
        try:
            if server is not None:
                server.publish_tokens()
            self.problem = None
        except OSError as error:
            problem = f"the tokens are not published: {self.config.key_file}: {error.strerror or error}"
            if problem != self.problem:
                self.log(problem)
            self.problem = problem

    def remove_published(self) -> None:
        """Remove the published tokens; those that cannot be removed are invalid once the server has ended."""
        try:
            self.config.key_file.unlink(missing_ok=True)
        except OSError as error:
            self.log(f"{self.config.key_file}: {error.strerror or error}")

    def rotate_if_due(self, requested: threading.Event) -> None:
        """Replace both tokens if it is time or somebody requested it; callers that read the key file again go on."""
        if not requested.is_set() and time.time() <= self.rotate_at:
            return
        requested.clear()
        started = time.time()
        try:
            with self.lock:
                self._rotate_tokens()
        except (DigitsError, OSError) as error:  # a full disk; or it has just died, and starts with new tokens
            warning = f"the tokens are not replaced: {error}; the next try is in {RETRY_SECONDS:.0f} s"
            if warning != self.warning:
                self.log(warning)
            self.warning, self.rotate_at = warning, time.time() + RETRY_SECONDS
            return
        self.warning = None
        self.record_creation(started)
        self.rotations.inc()

    def revoke_inference_token(self) -> None:
        """Make an inference token that is never published: TorchServe then rejects every new request at once."""
        self.remove_published()
        with self.lock:
            self._make_token("inference")

    @contextmanager
    def open_client(self) -> Iterator[ManagementClient]:
        """Open a client with TorchServe's own key file, which does not change while the block runs."""
        if not self.lock.acquire(timeout=LOCK_TIMEOUT_SECONDS):
            raise UnreachableError("TorchServe has not answered the last question yet")
        try:
            with self._open_client() as client:
                yield client
        finally:
            self.lock.release()

    def _rotate_tokens(self) -> None:
        """Make both tokens; OSError, with the old tokens still valid, where TorchServe or we could not write them."""
        server = self._require_server()
        for kind in ("inference", "management"):
            with ReservedFile(server.key_file, KEY_FILE_BYTES):
                pass
            write_atomic(self.config.key_file, server.key_file.read_bytes(), 0o600)  # it can be replaced
            with ReservedFile(self.config.key_file, KEY_FILE_BYTES, 0o600) as reserved:
                self._make_token(kind)
                reserved.commit(server.key_file.read_bytes())

    def _make_token(self, kind: str) -> None:
        with self._open_client() as client:
            headers = {"Authorization": f"Bearer {read_token(self._require_server().key_file, 'API')}"}
            client.api.call("GET", "/token", params={"type": kind}, headers=headers)

    def _open_client(self) -> ManagementClient:
        addresses = self.config.make_server(self._require_server().key_file)
        return ManagementClient(server=addresses, timeout=LOCK_TIMEOUT_SECONDS, retries=0)

    def _require_server(self) -> TorchServe:
        if (server := self.get_server()) is None:
            raise UnreachableError("TorchServe has ended")
        return server
