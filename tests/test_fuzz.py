"""Mutated pictures and JSON, into the handler and into a real server: refused or answered, and nothing else.

`make test` sends some, `make test-slow` a few thousand, `make soak` all that the bar asks for.
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
from tests.servers import flat, run_supervised, with_archives

EXAMPLES = 100  # of a round; what Hypothesis remembers of its examples is forgotten with each
BATCH = 10  # mutated pictures of an example, with good ones between
BODIES_AT_ONCE = 5  # mutated JSON bodies of one
SECONDS = 20.0  # that a batch may take, of the 60 that a worker has
STATUSES = {200, 400, 413, 422}
SHORT, SOAK = [pytest.mark.timeout(300)], [pytest.mark.soak, pytest.mark.timeout(1800)]

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a failing example


def rounds(number: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> Iterator[int]:
    """So many rounds of EXAMPLES, each of its own seed; yields after each."""
    limits = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    for each in range(number):

        def one(value: Any) -> None:
            check(value)

        seed(each)(limits(given(strategy)(one)))()
        gc.collect()
        yield each


def _lists(what: st.SearchStrategy[bytes], length: int) -> st.SearchStrategy[list[bytes]]:
    return st.lists(what, min_size=length, max_size=length)


class Watched:
    """A handler that is called with batches; good pictures between must be read right."""

    def __init__(self, handler: DigitHandler, model_dir: Path) -> None:
        self.handler, self.model_dir = handler, model_dir
        self.sent, self.longest = 0, 0.0

    def pictures(self, mutated: list[bytes]) -> None:
        rows = [row for picture in mutated for row in ({"body": picture}, {"body": SMOKE[len(picture) % 10]})]
        self.check(rows, [{}] * len(rows))

    def bodies(self, mutated: list[bytes]) -> None:
        rows = [row for body in mutated for row in ({"body": body}, {"body": SMOKE[len(body) % 10]})]
        self.check(rows, [JSON, {}] * len(mutated))

    def check(self, rows: list[dict[str, Any]], headers: list[dict[str, Any]]) -> None:
        context = make_context(self.model_dir, len(rows), headers)
        started = time.monotonic()
        answers = self.handler.handle(rows, context)
        self.longest = max(self.longest, time.monotonic() - started)
        self.sent += len(rows) // 2
        told = [(context.get_response_status(index)[0], json.loads(answer)) for index, answer in enumerate(answers)]
        assert len(told) == len(rows)
        assert {status for status, _ in told} <= STATUSES
        assert all(_is_refusal(status, answer) for status, answer in told if status != 200)
        assert [answer["digit"] for _, answer in told[1::2]] == [len(row["body"]) % 10 for row in rows[::2]]


def _is_refusal(status: int, answer: dict[str, Any]) -> bool:
    return set(answer) == {"code", "type", "message"} and answer["code"] == status and bool(answer["message"])


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        pytest.param("pictures", 1, marks=SHORT),
        pytest.param("pictures", 100, marks=SOAK),
        pytest.param("bodies", 1, marks=SHORT),
        pytest.param("bodies", 20, marks=SOAK),
    ],
)
def test_nothing_mutated_leaves_handle_with_an_exception(
    kind: str, number: int, handler: DigitHandler, model_dir: Path
) -> None:
    watched = Watched(handler, model_dir)
    strategy, size = (IMAGES, BATCH) if kind == "pictures" else (BODIES, BODIES_AT_ONCE)
    check = watched.pictures if kind == "pictures" else watched.bodies
    memory = [psutil.Process().memory_info().rss for _ in rounds(number, _lists(strategy, size), check)]
    mebibytes = ", ".join(f"{each / 2**20:.0f}" for each in memory[:: max(1, len(memory) // 10)])
    print(f"{watched.sent} mutated {kind}; longest batch {watched.longest:.2f} s; memory {mebibytes} MiB")
    assert watched.sent >= number * EXAMPLES * size
    assert watched.longest < SECONDS
    assert number < 10 or flat(memory)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A server that others need not suffer for."""
    config = with_archives(tmp_path_factory.mktemp("fuzzed"), "1.0")
    with run_supervised(config):
        yield config


class Fuzzed:
    """A real server that is sent: each example's pictures alone, all at once, then again as one call."""

    def __init__(self, config: Config, pool: ThreadPoolExecutor) -> None:
        self.client, self.pool = LocalManagementClient(config, retries=0, timeout=60), pool
        self.workers = self.pids()
        for _ in range(20):  # in turn, so that each worker gets some and has imported all there is
            assert self.client.inference.explain(SMOKE[7]).digit == 7
        self.memory: list[int] = []
        self.sent = 0

    def pids(self) -> list[int]:
        return [worker.pid for worker in self.client.get_default().workers]

    def post(self, body: bytes, headers: dict[str, str]) -> requests.Response:
        path = "/explanations/digits" if EXPLAIN.items() <= headers.items() else "/predictions/digits"
        return self.client.inference.api.request("POST", path, data=body, headers=headers)

    def pictures(self, mutated: list[bytes]) -> None:
        self.sent += len(mutated)
        mixed = [picture for each in mutated for picture in (each, SMOKE[len(each) % 10])]
        headers: list[dict[str, str]] = [{}, {}] * (len(mutated) - 1) + [EXPLAIN, {}]
        alone = [_told(response) for response in self.pool.map(self.post, mixed, headers)]
        together = self.post(encode_batch(mixed), JSON)
        assert together.status_code == 200
        told = [(each.get("code", 200), each) for each in together.json()["predictions"]]
        for answers in (alone, told):
            assert [answer["digit"] for _, answer in answers[1::2]] == [len(each) % 10 for each in mutated]
        assert [status for status, _ in told] == [status for status, _ in alone]

    def bodies(self, mutated: list[bytes]) -> None:
        self.sent += len(mutated)
        mixed = [body for each in mutated for body in (each, SMOKE[len(each) % 10])]
        answers = [_told(response) for response in self.pool.map(self.post, mixed, [JSON, {}] * len(mutated))]
        assert [answer["digit"] for _, answer in answers[1::2]] == [len(each) % 10 for each in mutated]

    def measure(self) -> None:
        assert self.pids() == self.workers, "a worker has died"
        self.memory.append(sum(psutil.Process(pid).memory_info().rss for pid in self.workers))


def _told(response: requests.Response) -> tuple[int, dict[str, Any]]:
    assert response.status_code in STATUSES, response.text
    answer = response.json()
    assert response.status_code == 200 or _is_refusal(response.status_code, answer)
    return response.status_code, answer


@pytest.mark.slow
@pytest.mark.parametrize(("pictures", "bodies"), [pytest.param(2, 1, marks=SHORT), pytest.param(6, 5, marks=SOAK)])
def test_mutated_requests_harm_neither_server_nor_neighbours(pictures: int, bodies: int, fuzzed: Config) -> None:
    with ThreadPoolExecutor(2 * BATCH) as pool:
        server = Fuzzed(fuzzed, pool)
        for _ in rounds(pictures, _lists(IMAGES, BATCH), server.pictures):
            server.measure()
        for _ in rounds(bodies, _lists(BODIES, BODIES_AT_ONCE), server.bodies):
            server.measure()
    print(f"{server.sent} mutated requests; workers {', '.join(f'{each / 2**20:.0f}' for each in server.memory)} MiB")
    assert server.sent >= EXAMPLES * (pictures * BATCH + bodies * BODIES_AT_ONCE)
    assert max(server.memory) <= 1.1 * server.memory[0]  # the first round warms up
