"""Minutes of simultaneous load, promotions, token rotations, scaling and killed processes, run by `make soak`."""

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
from tests.servers import (
    Load,
    find_java,
    get_readiness,
    is_flat,
    list_workers,
    read_until_curl,
    run_load,
    run_process,
    run_subprocess,
    wait_for,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]

SECONDS = 420.0
CALLERS = 16
JAVA_KILLS = 5


def get_workers(operator: LocalManagementClient) -> list[Worker]:
    return [worker for version in operator.list_versions().values() for worker in version.workers]


class Callers:
    """Threads that send requests with DigitsClient until the block ends, and record every error with its time."""

    def __init__(self, config: Config) -> None:
        self.client = DigitsClient(server=config.make_server())
        self.ended = threading.Event()
        self.predictions: Counter[str] = Counter()
        self.wrong: list[int] = []
        self.errors: list[tuple[float, DigitsError]] = []
        self.threads = [threading.Thread(target=self.send_requests, args=(number,)) for number in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def send_requests(self, seed: int) -> None:
        random_digits = random.Random(seed)
        while not self.ended.is_set():
            digit = random_digits.randrange(10)
            try:
                prediction = self.client.predict(SMOKE[digit])
                self.predictions[prediction.model_version] += 1
                if prediction.digit != digit:
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


def kill_worker(operator: LocalManagementClient) -> None:
    killed = random.choice(get_workers(operator)).pid
    psutil.Process(killed).kill()
    wait_for(lambda: all(worker.status == "READY" and worker.pid != killed for worker in get_workers(operator)), 30)


def run_actions(own: Config, operator: LocalManagementClient) -> Counter[str]:
    """Repeat the actions for SECONDS; return how often every one ran."""
    actions: dict[str, Callable[[], object]] = {
        "promote": lambda: operator.promote("1.1"),
        "rotate": lambda: run_subprocess(own, "token", "--rotate").check_returncode(),
        "rollback": operator.rollback,
        "scale": lambda: [operator.scale(3), operator.scale(2)],
        "kill a worker": lambda: kill_worker(operator),
    }
    done: Counter[str] = Counter()
    until = time.monotonic() + SECONDS
    for name in cycle(actions):
        if time.monotonic() > until:
            break
        actions[name]()
        done[name] += 1
    return done


def test_minutes_of_changes_cause_no_error(own: Config, capsys: pytest.CaptureFixture[str]) -> None:
    provide_archive("1.1", own.model_store)
    with run_process(own) as process, LocalManagementClient(own) as operator:
        read_until_curl(process)
        operator.register("digits-1.1.mar")
        with Callers(own) as callers:
            done = run_actions(own, operator)
        assert get_readiness(own) == (200, "ready")
    with capsys.disabled():
        print(f"\npredictions {dict(callers.predictions)}, errors {len(callers.errors)}, done {dict(done)}")
    assert not callers.errors
    assert not callers.wrong


def test_killed_java_is_ready_again_within_20_s(own: Config, capsys: pytest.CaptureFixture[str]) -> None:
    provide_archive("1.1", own.model_store)
    outages: list[float] = []
    with run_process(own) as process, LocalManagementClient(own) as operator:
        read_until_curl(process)
        operator.register("digits-1.1.mar")
        operator.promote("1.1")
        with Callers(own) as callers:
            for _ in range(JAVA_KILLS):
                killed = time.monotonic()
                find_java(process).kill()
                wait_for(lambda: get_readiness(own)[0] != 200, 5)
                wait_for(lambda: get_readiness(own)[0] == 200, 60)
                outages.append(time.monotonic() - killed)
                time.sleep(10)
        assert (operator.get_default().version, set(operator.list_versions())) == ("1.1", {"1.0", "1.1"})
    with capsys.disabled():
        print(
            f"\nout for {', '.join(f'{seconds:.1f}' for seconds in outages)} s; {len(callers.errors)} errors meanwhile"
        )
    assert max(outages) < 20
    assert not callers.wrong
    assert set(callers.predictions) == {"1.1"}


REQUESTS, SAMPLES = 200_000, 50


def send_other_requests(client: LocalManagementClient) -> None:
    """Send the kinds of requests that a load of single images lacks."""
    photo = encode(Image.effect_noise((3000, 2000), 60).convert("RGB"), "JPEG", quality=80)
    results = list(client.inference.predict_batch([SMOKE[1], b"", photo, *SMOKE.values()]))
    assert [type(result) for result in results[:2]] == [Prediction, ApiError]
    assert client.inference.explain(SMOKE[7]).digit == 7
    client.inference.api.request("POST", "/predictions/digits", data=b"{", headers={"Content-Type": "application/json"})
    client.api.request("GET", "/models/digits", params={"customized": "true"})
    assert client.status.read_readiness() == (True, "ready")
    assert client.status.read_metrics()


def test_memory_is_flat_over_200_000_requests(own: Config, capsys: pytest.CaptureFixture[str]) -> None:
    """The load is single images; batches, photos, explanations, invalid requests and metrics come in addition."""
    memory: dict[str, list[int]] = {"worker": [], "other worker": [], "Java": [], "supervisor": []}
    load = Load(own, connections=16)
    with run_process(own) as process, LocalManagementClient(own) as client:
        read_until_curl(process)
        processes = [*list_workers(process), find_java(process), psutil.Process(process.pid)]
        with run_load(load):
            for sample in range(1, SAMPLES + 1):
                while len(load.records) < sample * REQUESTS // SAMPLES:
                    send_other_requests(client)
                for samples, observed in zip(memory.values(), processes, strict=True):
                    samples.append(observed.memory_info().rss)
    with capsys.disabled():
        for name, samples in memory.items():
            print(f"\n{name}: {', '.join(f'{size / 2**20:.0f}' for size in samples[::7])} MiB", end="")
        print(f"\n{len(load.records)} single requests, {len(load.failures)} failed")
    assert not load.failures
    assert {name for name, samples in memory.items() if not is_flat(samples)} == set()
