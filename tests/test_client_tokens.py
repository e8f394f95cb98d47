"""serving/connection.py against a real server: tokens from everywhere, tokens replaced, tokens refused."""

import threading
import time
from pathlib import Path

import pytest
import requests

from serving.client import DigitsClient
from serving.config import Config, ServingError
from serving.connection import ENVIRONMENT, RefusedError, UnreachableError, read_key
from tests.pictures import SMOKE
from tests.servers import command, configure_free_ports, output_until_curl, started


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
    begun = time.monotonic()
    with DigitsClient(config) as client:
        with pytest.raises(UnreachableError, match="no tokens: the server does not run"):
            client.predict(SMOKE[7])
        config.key_file.write_text('{"inference": {"key": "old"}}')
        with pytest.raises(UnreachableError, match=r"does not answer \(ConnectionError\); `make status` tells"):
            client.predict(SMOKE[7])
    assert time.monotonic() - begun < 5


ROTATIONS = 3
ROTATION_SECONDS = 5


@pytest.mark.slow
def test_a_rotation_every_5_s_under_load_is_seen_by_no_caller(own: Config) -> None:
    """And no old key opens anything afterwards."""
    failed: list[ServingError] = []
    asked = 0
    ended = threading.Event()

    def ask(client: DigitsClient) -> None:
        nonlocal asked
        while not ended.is_set():
            try:
                client.predict(SMOKE[7])
                client.default()
                asked += 1
            except ServingError as error:
                failed.append(error)

    with started(own) as process:
        output_until_curl(process)
        shared, lone = DigitsClient(own), [DigitsClient(own) for _ in range(8)]
        threads = [threading.Thread(target=ask, args=(each,)) for each in [*lone, *[shared] * 8]]
        old = []
        for thread in threads:
            thread.start()
        for _ in range(ROTATIONS):
            old.append({kind: read_key(own.key_file, kind) for kind in ("inference", "management")})
            time.sleep(ROTATION_SECONDS)
            printed = command(own, "token", "--rotate").stdout.strip()
            assert printed == read_key(own.key_file, "inference") != old[-1]["inference"]
            assert own.key_file.stat().st_mode & 0o777 == 0o600
        ended.set()
        for thread in threads:
            thread.join()
        print(f"{2 * asked} requests over {ROTATIONS} changes of the tokens, {len(failed)} errors seen")
        assert not failed
        assert asked > 500
        for keys in old:
            refused(own, keys["inference"], keys["management"])
    assert "the tokens are not changed" not in (own.folder / "errors").read_text()


def refused(config: Config, inference: str, management: str) -> None:
    predict = config.url("inference") + "/predictions/digits"
    for url, key in ((predict, inference), (config.url("management") + "/models", management)):
        response = requests.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=10)
        assert (response.status_code, response.json()["type"]) == (400, "InvalidKeyException")


def keys_that_are_none(config: Config) -> dict[str, str | None]:
    good = {kind: read_key(config.key_file, kind) for kind in ("inference", "management", "API")}
    return {
        "none": None,
        "empty": "",
        "no key": "Bearer",
        "wrong": "Bearer 00000000",
        "part of it": f"Bearer {good['inference'][:-1]}",
        "without Bearer": good["inference"],
        "Basic": f"Basic {good['inference']}",
        "API": f"Bearer {good['API']}",
    }


ENDPOINTS = [
    ("inference", "POST", "/predictions/digits"),
    ("inference", "PUT", "/predictions/digits/1.0"),
    ("inference", "GET", "/ping"),
    ("management", "GET", "/models"),
    ("management", "POST", "/models?url=digits-1.0.mar"),
    ("management", "DELETE", "/models/digits/1.0"),
]


def test_54_requests_without_the_right_token_are_refused(server: Config, client: DigitsClient) -> None:
    kinds = keys_that_are_none(server)
    tried = 0
    for api, method, path in ENDPOINTS:
        other = "management" if api == "inference" else "inference"
        for kind, header in kinds.items():
            headers = {} if header is None else {"Authorization": header}
            response = requests.request(method, server.url(api) + path, headers=headers, data=SMOKE[7], timeout=10)
            assert (response.status_code, response.json()["type"]) == (400, "InvalidKeyException"), (path, kind)
            tried += 1
        wrong_kind = {"Authorization": f"Bearer {read_key(server.key_file, other)}"}
        response = requests.request(method, server.url(api) + path, headers=wrong_kind, data=SMOKE[7], timeout=10)
        assert (response.status_code, response.json()["type"]) == (400, "InvalidKeyException"), (path, other)
        tried += 1
    assert tried == 54
    assert set(client.models()) == {"1.0"}
