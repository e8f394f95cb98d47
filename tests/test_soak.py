"""Minutes of everything at once, by `make soak`: load, promotions, new tokens, scaling, killed processes."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from typing import Self

import psutil
import pytest
from PIL import Image

from digits_client.client import DigitsClient
from digits_client.exceptions import ApiError, DigitsError
from digits_client.types import Prediction, Worker
from serving.config import Config
from serving.local_management import LocalManagementClient
from tests.archives import provide_archive
from tests.images import SMOKE, encode
from tests.servers import Load, command, flat, java, output_until_curl, ready, started, under_load, wait_for, workers

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

SECONDS = 420.0
CALLERS = 16
JAVA_KILLS = 5


def listed(operator: LocalManagementClient) -> list[Worker]:
    return [worker for version in operator.list_versions().values() for worker in version.workers]


class Callers:
    """Threads that ask by DigitsClient, as its users do, and keep every error with its time, until the block ends."""

    def __init__(self, config: Config) -> None:
        self.client = DigitsClient(server=config.make_server())
        self.ended = threading.Event()
        self.answers: Counter[str] = Counter()
        self.wrong: list[int] = []
        self.errors: list[tuple[float, DigitsError]] = []
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def ask(self, seed: int) -> None:
        random_digits = random.Random(seed)
        while not self.ended.is_set():
            digit = random_digits.randrange(10)
            try:
                answer = self.client.predict(SMOKE[digit])
                self.answers[answer.model_version] += 1
                if answer.digit != digit:
                    self.wrong.append(digit)
            except DigitsError as error:
                self.errors.append((time.monotonic(), error))
                time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()
        self.client.__exit__()


def kill_a_worker(operator: LocalManagementClient) -> None:
    killed = random.choice(listed(operator)).pid
    psutil.Process(killed).kill()
    wait_for(lambda: all(each.status == "READY" and each.pid != killed for each in listed(operator)), 30)


def everything(own: Config, operator: LocalManagementClient) -> Counter[str]:
    """For SECONDS; how often what was done."""
    actions: dict[str, Callable[[], object]] = {
        "promote": lambda: operator.promote("1.1"),
        "rotate": lambda: command(own, "token", "--rotate").check_returncode(),
        "rollback": operator.rollback,
        "scale": lambda: [operator.scale(3), operator.scale(2)],
        "kill a worker": lambda: kill_a_worker(operator),
    }
    done: Counter[str] = Counter()
    until = time.monotonic() + SECONDS
    for name in cycle(actions):
        if time.monotonic() > until:
            break
        actions[name]()
        done[name] += 1
    return done


def test_minutes_of_everything_are_seen_by_no_caller(own: Config, capsys: pytest.CaptureFixture[str]) -> None:
    provide_archive("1.1", own.model_store)
    with started(own) as process, LocalManagementClient(own) as operator:
        output_until_curl(process)
        operator.register("digits-1.1.mar")
        with Callers(own) as callers:
            done = everything(own, operator)
        assert ready(own) == (200, "ready")
    with capsys.disabled():
        print(f"\nanswers {dict(callers.answers)}, errors {len(callers.errors)}, done {dict(done)}")
    assert not callers.errors
    assert not callers.wrong


def test_a_killed_java_is_back_within_20_s_each_time(own: Config, capsys: pytest.CaptureFixture[str]) -> None:
    provide_archive("1.1", own.model_store)
    away: list[float] = []
    with started(own) as process, LocalManagementClient(own) as operator:
        output_until_curl(process)
        operator.register("digits-1.1.mar")
        operator.promote("1.1")
        with Callers(own) as callers:
            for _ in range(JAVA_KILLS):
                killed = time.monotonic()
                java(process).kill()
                wait_for(lambda: ready(own)[0] != 200, 5)
                wait_for(lambda: ready(own)[0] == 200, 60)
                away.append(time.monotonic() - killed)
                time.sleep(10)
        assert (operator.get_default().version, set(operator.list_versions())) == ("1.1", {"1.0", "1.1"})
    with capsys.disabled():
        print(f"\naway for {', '.join(f'{seconds:.1f}' for seconds in away)} s; {len(callers.errors)} errors meanwhile")
    assert max(away) < 20
    assert not callers.wrong
    assert set(callers.answers) == {"1.1"}


REQUESTS, SAMPLES = 200_000, 50


def ask_everything(client: LocalManagementClient) -> None:
    """What a load of single pictures leaves out."""
    photo = encode(Image.effect_noise((3000, 2000), 60).convert("RGB"), "JPEG", quality=80)
    answers = list(client.inference.predict_batch([SMOKE[1], b"", photo, *SMOKE.values()]))
    assert [type(each) for each in answers[:2]] == [Prediction, ApiError]
    assert client.inference.explain(SMOKE[7]).digit == 7
    client.inference.api.request("POST", "/predictions/digits", data=b"{", headers={"Content-Type": "application/json"})
    client.api.request("GET", "/models/digits", params={"customized": "true"})
    assert client.status.read_readiness() == (True, "ready")
    assert client.status.read_metrics()


def test_memory_is_flat_over_200_000_requests(own: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """Single pictures, and beside them calls of many, photos, explanations, rubbish, descriptions and metrics."""
    memory: dict[str, list[int]] = {"worker": [], "worker beside it": [], "Java": [], "supervisor": []}
    load = Load(own, connections=16)
    with started(own) as process, LocalManagementClient(own) as client:
        output_until_curl(process)
        watched = [*workers(process), java(process), psutil.Process(process.pid)]
        with under_load(load):
            for sample in range(1, SAMPLES + 1):
                while len(load.sent) < sample * REQUESTS // SAMPLES:
                    ask_everything(client)
                for samples, each in zip(memory.values(), watched, strict=True):
                    samples.append(each.memory_info().rss)
    with capsys.disabled():
        for name, samples in memory.items():
            print(f"\n{name}: {', '.join(f'{each / 2**20:.0f}' for each in samples[::7])} MiB", end="")
        print(f"\n{len(load.sent)} single requests, {len(load.failed)} failed")
    assert not load.failed
    assert {name for name, samples in memory.items() if not flat(samples)} == set()
