"""TorchServe's tokens: published to callers in one piece, replaced after half of their life, revoked for a stop."""

import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.client import DigitsClient
from serving.config import Config, ServingError
from serving.torchserve import TorchServe

RETRY_SECONDS = 10.0  # after a rotation that failed


class Tokens:
    """The tokens of the TorchServe that `server` returns; `lock` keeps others from reading TorchServe's own key file.

    TorchServe writes that file piece by piece, and a new token makes the old one invalid at once for everybody.
    """

    def __init__(
        self,
        config: Config,
        server: Callable[[], TorchServe | None],
        lock: threading.Lock,
        registry: CollectorRegistry,
        warn: Callable[[str], None],
    ) -> None:
        self.config, self.server, self.lock, self.warn = config, server, lock, warn
        self.rotate_at = 0.0  # by the clock, as tokens expire
        self.expires_at = 0.0
        self.rotations = Counter("digits_token_rotations", "changes of the tokens", registry=registry)
        lifetime = Gauge("digits_key_lifetime_seconds", "that tokens last", registry=registry)
        lifetime.set_function(lambda: config.token_seconds)
        left = Gauge("digits_key_expires_in_seconds", "until the tokens expire", registry=registry)
        left.set_function(lambda: self.expires_at - time.time())

    def note_creation(self, when: float) -> None:
        """Note when the tokens were made; half of their life later they are replaced, with time left to retry."""
        self.rotate_at, self.expires_at = when + self.config.token_seconds / 2, when + self.config.token_seconds

    def publish(self) -> None:
        """Give callers the current tokens."""
        server = self.server()
        try:
            if server is not None:
                server.publish_keys()
        except OSError as error:
            self.warn(f"the tokens are not published: {error}")

    def unpublish(self) -> None:
        self.config.key_file.unlink(missing_ok=True)

    def rotate_if_due(self, requested: threading.Event) -> None:
        """Replace both tokens if it is time or somebody requested it; callers that read the key file again go on."""
        if not requested.is_set() and time.time() <= self.rotate_at:
            return
        requested.clear()
        started = time.time()
        try:
            with self.lock:
                for kind in ("inference", "management"):
                    self._make(kind)
                    self.publish()
        except ServingError as error:  # it has just died: it starts again with new tokens
            self.warn(f"the tokens are not changed: {error}")
            self.rotate_at = time.time() + RETRY_SECONDS
            return
        self.note_creation(started)
        self.rotations.inc()

    def revoke_inference(self) -> None:
        """Make an inference token that is never published: TorchServe then refuses every new request at once."""
        self.unpublish()
        self._make("inference")

    def open_client(self) -> DigitsClient:
        """Return a client with TorchServe's own key file."""
        server = self.server()
        assert server is not None
        return DigitsClient(self.config, retries=0, key_file=server.key_file)

    def _make(self, kind: str) -> None:
        with self.open_client() as client:
            headers = {"Authorization": f"Bearer {client.token('API')}"}
            client.ask("management", "GET", "/token", params={"type": kind}, headers=headers)
