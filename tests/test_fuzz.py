"""Fuzz the handler and a real server with mutated images and JSON: all get a prediction or an error.

`make test` sends some, `make test-slow` a few thousand, `make soak` as many as a release requires.
"""

import gc
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from digits_client.encoding import encode_batch
from handler.digit_handler import DigitHandler
from serving.config import Config
from serving.local_management import LocalManagementClient
from tests.handler_calls import EXPLAIN, JSON, make_context
from tests.images import SMOKE
from tests.mutations import BODIES, IMAGES
from tests.servers import configure_with_archives, is_flat, run_supervised

EXAMPLES = 100  # per round; then Hypothesis' memory of its examples is freed
BATCH = 10  # mutated images in an example, with good ones between them
BODIES_AT_ONCE = 5  # mutated JSON bodies in an example
MAX_SECONDS = 20.0  # of a batch; TorchServe waits for 60
STATUSES = {200, 400, 413, 422}
SHORT, SOAK = [pytest.mark.timeout(300)], [pytest.mark.soak, pytest.mark.timeout(1800)]

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a failing example


def run_rounds(number: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> Iterator[int]:
    """Run rounds of EXAMPLES, with the round's number as seed; yield after every round."""
    limits = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    for index in range(number):

        def check_example(value: Any) -> None:
            check(value)

        seed(index)(limits(given(strategy)(check_example)))()
        gc.collect()
        yield index


def _make_lists(elements: st.SearchStrategy[bytes], length: int) -> st.SearchStrategy[list[bytes]]:
    return st.lists(elements, min_size=length, max_size=length)


class HandlerFuzzer:
    """Calls the handler with mutated batches; the good images between them must get correct predictions."""

    def __init__(self, handler: DigitHandler, model_dir: Path) -> None:
        self.handler, self.model_dir = handler, model_dir
        self.sent, self.longest = 0, 0.0

    def send_images(self, mutated: list[bytes]) -> None:
        rows = [row for image in mutated for row in ({"body": image}, {"body": SMOKE[len(image) % 10]})]
        self.check(rows, [{}] * len(rows))

    def send_bodies(self, mutated: list[bytes]) -> None:
        rows = [row for body in mutated for row in ({"body": body}, {"body": SMOKE[len(body) % 10]})]
        self.check(rows, [JSON, {}] * len(mutated))

    def check(self, rows: list[dict[str, Any]], headers: list[dict[str, Any]]) -> None:
        context = make_context(self.model_dir, len(rows), headers)
        started = time.monotonic()
        bodies = self.handler.handle(rows, context)
        self.longest = max(self.longest, time.monotonic() - started)
        self.sent += len(rows) // 2
        responses = [(context.get_response_status(index)[0], json.loads(body)) for index, body in enumerate(bodies)]
        assert len(responses) == len(rows)
        assert {status for status, _ in responses} <= STATUSES
        assert all(_is_error(status, response) for status, response in responses if status != 200)
        assert [response["digit"] for _, response in responses[1::2]] == [len(row["body"]) % 10 for row in rows[::2]]


def _is_error(status: int, response: dict[str, Any]) -> bool:
    has_fields = set(response) == {"code", "type", "message"}
    return has_fields and response["code"] == status and bool(response["message"])


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        pytest.param("images", 1, marks=SHORT),
        pytest.param("images", 100, marks=SOAK),
        pytest.param("bodies", 1, marks=SHORT),
        pytest.param("bodies", 20, marks=SOAK),
    ],
)
def test_mutated_requests_raise_no_exception(kind: str, number: int, handler: DigitHandler, model_dir: Path) -> None:
    fuzzer = HandlerFuzzer(handler, model_dir)
    strategy, size = (IMAGES, BATCH) if kind == "images" else (BODIES, BODIES_AT_ONCE)
    check = fuzzer.send_images if kind == "images" else fuzzer.send_bodies
    memory = [psutil.Process().memory_info().rss for _ in run_rounds(number, _make_lists(strategy, size), check)]
    mebibytes = ", ".join(f"{size / 2**20:.0f}" for size in memory[:: max(1, len(memory) // 10)])
    print(f"{fuzzer.sent} mutated {kind}; longest batch {fuzzer.longest:.2f} s; memory {mebibytes} MiB")
    assert fuzzer.sent >= number * EXAMPLES * size
    assert fuzzer.longest < MAX_SECONDS
    assert number < 10 or is_flat(memory)


@pytest.fixture(scope="module")
def fuzzed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A server for these tests alone."""
    config = configure_with_archives(tmp_path_factory.mktemp("fuzzed"), "1.0")
    with run_supervised(config):
        yield config


class ServerFuzzer:
    """Sends an example's images to a real server: concurrently as single requests, then as one batch request."""

    def __init__(self, config: Config, pool: ThreadPoolExecutor) -> None:
        self.client, self.pool = LocalManagementClient(config, retries=0, timeout=60), pool
        self.workers = self.list_pids()
        for _ in range(20):  # sequential, so that every worker gets some and imports captum
            assert self.client.inference.explain(SMOKE[7]).digit == 7
        self.memory: list[int] = []
        self.sent = 0

    def list_pids(self) -> list[int]:
        return [worker.pid for worker in self.client.get_default().workers]

    def post(self, body: bytes, headers: dict[str, str]) -> requests.Response:
        path = "/explanations/digits" if EXPLAIN.items() <= headers.items() else "/predictions/digits"
        return self.client.inference.api.request("POST", path, data=body, headers=headers)

    def send_images(self, mutated: list[bytes]) -> None:
        self.sent += len(mutated)
        mixed = [image for content in mutated for image in (content, SMOKE[len(content) % 10])]
        headers: list[dict[str, str]] = [{}, {}] * (len(mutated) - 1) + [EXPLAIN, {}]
        single = [_parse_response(response) for response in self.pool.map(self.post, mixed, headers)]
        response = self.post(encode_batch(mixed), JSON)
        assert response.status_code == 200
        batch = [(result.get("code", 200), result) for result in response.json()["predictions"]]
        for results in (single, batch):
            assert [result["digit"] for _, result in results[1::2]] == [len(content) % 10 for content in mutated]
        assert [status for status, _ in batch] == [status for status, _ in single]

    def send_bodies(self, mutated: list[bytes]) -> None:
        self.sent += len(mutated)
        mixed = [body for content in mutated for body in (content, SMOKE[len(content) % 10])]
        responses = self.pool.map(self.post, mixed, [JSON, {}] * len(mutated))
        results = [_parse_response(response) for response in responses]
        assert [result["digit"] for _, result in results[1::2]] == [len(content) % 10 for content in mutated]

    def measure(self) -> None:
        assert self.list_pids() == self.workers, "a worker has died"
        self.memory.append(sum(psutil.Process(pid).memory_info().rss for pid in self.workers))


def _parse_response(response: requests.Response) -> tuple[int, dict[str, Any]]:
    assert response.status_code in STATUSES, response.text
    result = response.json()
    assert response.status_code == 200 or _is_error(response.status_code, result)
    return response.status_code, result


@pytest.mark.slow
@pytest.mark.parametrize(("images", "bodies"), [pytest.param(2, 1, marks=SHORT), pytest.param(6, 5, marks=SOAK)])
def test_mutated_requests_harm_neither_server_nor_others(images: int, bodies: int, fuzzed_server: Config) -> None:
    with ThreadPoolExecutor(2 * BATCH) as pool:
        server = ServerFuzzer(fuzzed_server, pool)
        for _ in run_rounds(images, _make_lists(IMAGES, BATCH), server.send_images):
            server.measure()
        for _ in run_rounds(bodies, _make_lists(BODIES, BODIES_AT_ONCE), server.send_bodies):
            server.measure()
    print(f"{server.sent} mutated requests; workers {', '.join(f'{size / 2**20:.0f}' for size in server.memory)} MiB")
    assert server.sent >= EXAMPLES * (images * BATCH + bodies * BODIES_AT_ONCE)
    assert max(server.memory) <= 1.1 * server.memory[0]  # the first round warms up
