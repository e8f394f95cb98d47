"""serving/tokens.py: when tokens are replaced, published and revoked, against a stand-in for TorchServe."""

import threading
import time
from types import SimpleNamespace
from typing import Any, Self

import pytest
from prometheus_client import CollectorRegistry

from serving import tokens as module
from serving.config import Config, ServingError
from serving.tokens import Tokens


class StandInClient:
    """Notes the tokens that it makes; `error` is raised by the next one."""

    made: list[str]
    error: ServingError | None

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def token(self, kind: str) -> str:
        return kind

    def ask(self, *_: object, params: dict[str, str], headers: dict[str, str]) -> None:
        assert headers == {"Authorization": "Bearer API"}
        if self.error:
            raise self.error
        self.made.append(params["type"])


class Setup:
    def __init__(self, config: Config) -> None:
        self.published = 0
        self.warnings: list[str] = []
        self.registry = CollectorRegistry()
        server: Any = SimpleNamespace(key_file=config.key_file, publish_keys=self.count)
        self.tokens = Tokens(config, lambda: server, threading.Lock(), self.registry, self.warnings.append)
        self.tokens.note_creation(time.time())

    def count(self) -> None:
        self.published += 1

    def rotate(self, requested: bool = False) -> None:
        event = threading.Event()
        if requested:
            event.set()
        self.tokens.rotate_if_due(event)
        assert not event.is_set()


@pytest.fixture
def setup(config: Config, monkeypatch: pytest.MonkeyPatch) -> Setup:
    StandInClient.made, StandInClient.error = [], None
    monkeypatch.setattr(module, "DigitsClient", StandInClient)
    return Setup(config)


def test_tokens_are_replaced_on_request_and_after_half_of_their_life(setup: Setup) -> None:
    setup.rotate()
    assert StandInClient.made == []
    setup.rotate(requested=True)
    assert StandInClient.made == ["inference", "management"]
    assert setup.published == 2  # after each of them: the old one is invalid at once
    setup.tokens.note_creation(time.time() - setup.tokens.config.token_seconds * 0.51)
    setup.rotate()
    assert len(StandInClient.made) == 4
    assert setup.registry.get_sample_value("digits_token_rotations_total") == 2
    left = setup.registry.get_sample_value("digits_key_expires_in_seconds")
    assert left == pytest.approx(setup.tokens.config.token_seconds, abs=60)


def test_a_rotation_that_fails_is_tried_again_later(setup: Setup) -> None:
    StandInClient.error = ServingError("it has just died")
    setup.rotate(requested=True)
    assert setup.warnings == ["the tokens are not changed: it has just died"]
    assert 0 < setup.tokens.rotate_at - time.time() <= module.RETRY_SECONDS
    StandInClient.error, setup.tokens.rotate_at = None, 0.0
    setup.rotate()
    assert StandInClient.made == ["inference", "management"]


def test_a_revoked_token_is_replaced_by_one_that_is_not_published(setup: Setup) -> None:
    setup.tokens.config.key_file.write_text("{}")
    setup.tokens.revoke_inference()
    assert StandInClient.made == ["inference"]
    assert setup.published == 0
    assert not setup.tokens.config.key_file.exists()
