"""TorchServe's tokens: published to callers, replaced after half of their lifetime, revoked to drain the server."""

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

LOCK_TIMEOUT_SECONDS = 5.0  # a server that takes longer to respond is not ready
RETRY_SECONDS = 10.0  # after a rotation that failed
KEY_FILE_BYTES = 4096  # space to reserve; more than a key file needs


class Tokens:
    """The tokens of the TorchServe that `get_server` returns.

    TorchServe does not write its key file atomically, and a new token invalidates the old one at once. So tokens are
    replaced only while no client of `open_client` is in use, and only if the new ones can be written.
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
        self.rotate_at = 0.0  # Unix time, as tokens expire by the clock
        self.expires_at = 0.0
        self.problem: str | None = None  # why callers cannot read the tokens
        self.warning: str | None = None  # why the last rotation failed
        self.rotations = Counter("digits_token_rotations", "rotations of the tokens", registry=registry)
        for name, text, value in (
            ("digits_token_lifetime_seconds", "lifetime of a token", lambda: config.token_seconds),
            ("digits_token_expiry_timestamp_seconds", "Unix time at which the tokens expire", lambda: self.expires_at),
            ("digits_tokens_published", "1 if callers can read the tokens, else 0", lambda: self.problem is None),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def record_creation(self, created_at: float) -> None:
        """Record when the tokens were created; they are due for rotation after half of their lifetime."""
        lifetime = self.config.token_seconds
        self.rotate_at, self.expires_at = created_at + lifetime / 2, created_at + lifetime

    def publish_tokens(self) -> None:
        """Publish the current tokens to callers."""
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
        """Remove the published tokens; if that fails, they are still invalid once the server has ended."""
        try:
            self.config.key_file.unlink(missing_ok=True)
        except OSError as error:
            self.log(f"{self.config.key_file}: {error.strerror or error}")

    def rotate_if_due(self, requested: threading.Event) -> None:
        """Replace both tokens if that is due or `requested` is set; callers read the key file again."""
        if not requested.is_set() and time.time() <= self.rotate_at:
            return
        requested.clear()
        started = time.time()
        try:
            with self.lock:
                self._rotate_tokens()
        except (DigitsError, OSError) as error:  # a full disk, or TorchServe has just died and restarts with new tokens
            warning = f"the tokens are not replaced: {error}; retrying in {RETRY_SECONDS:.0f} s"
            if warning != self.warning:
                self.log(warning)
            self.warning, self.rotate_at = warning, time.time() + RETRY_SECONDS
            return
        self.warning = None
        self.record_creation(started)
        self.rotations.inc()

    def revoke_inference_token(self) -> None:
        """Create an inference token that is never published, so that TorchServe rejects every new request at once."""
        self.remove_published()
        with self.lock:
            self._make_token("inference")

    @contextmanager
    def open_client(self) -> Iterator[ManagementClient]:
        """Open a client with TorchServe's own key file; tokens are not replaced while the block runs."""
        if not self.lock.acquire(timeout=LOCK_TIMEOUT_SECONDS):
            raise UnreachableError("TorchServe has not answered the previous request yet")
        try:
            with self._open_client() as client:
                yield client
        finally:
            self.lock.release()

    def _rotate_tokens(self) -> None:
        """Create both tokens; OSError, with the old ones still valid, if the new ones could not be written."""
        server = self._require_server()
        for kind in ("inference", "management"):
            with ReservedFile(server.key_file, KEY_FILE_BYTES):
                pass
            write_atomic(self.config.key_file, server.key_file.read_bytes(), 0o600)  # check that it can be replaced
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
