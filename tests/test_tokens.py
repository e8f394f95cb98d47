"""serving/tokens.py: when tokens are replaced, published and revoked, with a stand-in for TorchServe."""

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from prometheus_client import CollectorRegistry

from common.atomic import write_atomic
from digits_client.exceptions import DigitsError, UnreachableError
from digits_client.transport import read_token
from serving import tokens as module
from serving.tokens import Tokens
from tests.servers import configure_free_ports


class Setup:
    """Tokens of a TorchServe that numbers its tokens; `error` is raised when the next one is created."""

    def __init__(self, folder: Path) -> None:
        self.config = configure_free_ports(folder)
        self.own = folder / "own" / "key_file.json"
        self.own.parent.mkdir()
        self.made: list[str] = []
        self.error: DigitsError | None = None
        self.lines: list[str] = []
        self.registry = CollectorRegistry()
        server: Any = SimpleNamespace(key_file=self.own, publish_tokens=self.publish_tokens)
        self.tokens = Tokens(self.config, lambda: server, self.registry, self.lines.append)
        self.tokens.record_creation(time.time())
        self.write()
        self.tokens.publish_tokens()

    def write(self) -> None:
        number = {kind: f"{kind} {self.made.count(kind)}" for kind in ("inference", "management", "API")}
        self.own.write_text(json.dumps({kind: {"key": key} for kind, key in number.items()}))

    def publish_tokens(self) -> None:
        write_atomic(self.config.key_file, self.own.read_bytes())

    def call(self, *_: object, params: dict[str, str], headers: dict[str, str]) -> None:
        assert headers == {"Authorization": "Bearer API 0"}
        if self.error:
            raise self.error
        self.made.append(params["type"])
        self.write()

    def rotate(self, requested: bool = False) -> None:
        event = threading.Event()
        if requested:
            event.set()
        self.tokens.rotate_if_due(event)
        assert not event.is_set()

    def read_published(self) -> list[str]:
        return [read_token(self.config.key_file, kind) for kind in ("inference", "management")]

    def get_metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"digits_{name}")


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    setup = Setup(tmp_path)

    class StandInClient:
        def __init__(self, **_: object) -> None:
            self.api = setup

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(module, "ManagementClient", StandInClient)
    return setup


def test_tokens_are_replaced_on_request_and_after_half_of_their_life(setup: Setup) -> None:
    setup.rotate()
    assert setup.made == []
    setup.rotate(requested=True)
    assert setup.made == ["inference", "management"]
    assert setup.read_published() == ["inference 1", "management 1"]
    assert setup.config.key_file.stat().st_mode & 0o777 == 0o600
    setup.tokens.record_creation(time.time() - setup.config.token_seconds * 0.51)
    setup.rotate()
    assert len(setup.made) == 4
    assert setup.get_metric("token_rotations_total") == 2
    assert setup.get_metric("token_expiry_timestamp_seconds") == pytest.approx(
        time.time() + setup.config.token_seconds, abs=60
    )
    assert setup.get_metric("token_lifetime_seconds") == setup.config.token_seconds


def test_a_failed_rotation_is_retried_later(setup: Setup) -> None:
    setup.error = DigitsError("it has just died")
    for _ in range(2):
        setup.rotate(requested=True)
    assert setup.lines == [setup.tokens.warning] == ["the tokens are not replaced: it has just died; retrying in 10 s"]
    assert 0 < setup.tokens.rotate_at - time.time() <= module.RETRY_SECONDS
    setup.error, setup.tokens.rotate_at = None, 0.0
    setup.rotate()
    assert (setup.read_published(), setup.tokens.warning) == (["inference 1", "management 1"], None)


@pytest.mark.parametrize("owner", ["TorchServe's file", "the published file"])
def test_no_token_is_revoked_while_its_successor_cannot_be_written(owner: str, setup: Setup) -> None:
    """A folder in place of the temporary file, since root could write a read-only file."""
    path = setup.own if owner == "TorchServe's file" else setup.config.key_file
    blocked = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    blocked.mkdir()
    setup.rotate(requested=True)
    assert (setup.made, setup.read_published()) == ([], ["inference 0", "management 0"])
    assert "the tokens are not replaced" in (setup.tokens.warning or "")
    assert setup.get_metric("tokens_published") == 1
    blocked.rmdir()
    setup.rotate(requested=True)
    assert setup.read_published() == ["inference 1", "management 1"]


def test_unpublished_tokens_are_reported_until_they_are_published(setup: Setup) -> None:
    setup.config.key_file.unlink()
    setup.config.key_file.mkdir()
    for _ in range(2):
        setup.tokens.publish_tokens()
    assert setup.lines == [setup.tokens.problem]
    assert f"the tokens are not published: {setup.config.key_file}: " in setup.lines[0]
    assert setup.get_metric("tokens_published") == 0
    setup.config.key_file.rmdir()
    setup.tokens.publish_tokens()
    assert (setup.tokens.problem, setup.get_metric("tokens_published")) == (None, 1)


def test_a_revoked_token_is_replaced_by_an_unpublished_one(setup: Setup) -> None:
    setup.tokens.revoke_inference_token()
    assert setup.made == ["inference"]
    assert not setup.config.key_file.exists()


def test_tokens_do_not_change_under_a_client(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 0.01)
    with setup.tokens.open_client():
        rotation = threading.Thread(target=setup.rotate, args=[True])
        rotation.start()
        with pytest.raises(UnreachableError, match="has not answered the previous request"), setup.tokens.open_client():
            pytest.fail("two clients at once")
        assert setup.made == []
    rotation.join(10)
    assert setup.made == ["inference", "management"]
