"""serving/connection.py against a real server: tokens from everywhere, tokens refused."""

import time
from pathlib import Path

import pytest
import requests

from serving.client import DigitsClient
from serving.config import TOKENS, Config
from serving.connection import ENVIRONMENT, RefusedError, UnreachableError, read_key
from tests.pictures import SMOKE
from tests.servers import configure_free_ports

PREDICT = "/predictions/digits"


def test_tokens_come_from_the_environment_first(server: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, name in ENVIRONMENT.items():
        monkeypatch.setenv(name, read_key(server.key_file, kind))
    elsewhere = Config(server.path.parent / "elsewhere" / "config.properties", server.properties)
    with DigitsClient(elsewhere) as client:
        assert not elsewhere.key_file.exists()
        assert client.predict(SMOKE[7]).digit == 7
        assert client.default().version == "1.0"


def test_a_wrong_token_of_the_environment_is_not_replaced(server: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS_INFERENCE_TOKEN", "wrong")
    with (
        DigitsClient(server) as client,
        pytest.raises(RefusedError, match=r"InvalidKeyException.*DIGITS_INFERENCE_TOKEN and DIGITS_MANAGEMENT"),
    ):
        client.predict(SMOKE[7])


def test_nobody_there_is_said_at_once(tmp_path: Path) -> None:
    config = configure_free_ports(tmp_path)
    start = time.monotonic()
    with DigitsClient(config) as client:
        with pytest.raises(UnreachableError, match="no tokens: the server does not run"):
            client.predict(SMOKE[7])
        config.key_file.write_text('{"inference": {"key": "old"}}')
        with pytest.raises(UnreachableError, match=r"does not answer \(ConnectionError\); `make status` tells"):
            client.predict(SMOKE[7])
    assert time.monotonic() - start < 5


def refuses(config: Config, api: str, path: str, authorization: str) -> bool:
    response = requests.get(config.url(api) + path, headers={"Authorization": authorization}, timeout=10)
    return (response.status_code, response.json()["type"]) == (400, "InvalidKeyException")


def test_nothing_but_the_apis_own_token_opens_it(server: Config) -> None:
    """Every operation without its token is refused in test_openapi.py."""
    keys = {kind: read_key(server.key_file, kind) for kind in TOKENS}
    for api, path in (("inference", PREDICT), ("management", "/models")):
        own = keys[api]
        others = [f"Bearer {key}" for kind, key in keys.items() if kind != api]
        for invalid in ("", "Bearer", f"Bearer {own[:-1]}", own, f"Basic {own}", *others):
            assert refuses(server, api, path, invalid), invalid
