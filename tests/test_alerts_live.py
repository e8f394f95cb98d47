"""monitoring/rules with a real Prometheus: silent on healthy servers, in time on sick ones, whose causes are real.

Three servers are scraped at once: one that is healthy while it is asked and rolls a version out, one that is sick in
all ways a few callers and kills of workers can make it, and one whose Java stands still and dies.
"""

import itertools
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import requests

from digits_client.exceptions import DigitsError
from digits_client.status import StatusClient
from digits_client.transport import read_token
from evaluation.sets import encode_png
from serving.config import Config, read_config
from tests.handler_calls import JSON, make_batch_body
from tests.images import make_large_image
from tests.prometheus import Prometheus, prometheus
from tests.servers import (
    configure_free_ports,
    java,
    output_until_curl,
    serving_client,
    started,
    wait_for,
    with_archives,
    workers,
)
from tests.test_monitoring_rules import ALERTS, seconds
from training.data import load_raw_images

HEALTHY, SICK, STUCK = "healthy", "sick", "stuck"
FLOOD = 700  # connections; 512 may wait
FLOOD_RATE = 100  # requests a second, so that it leaves others their CPU
Rule = tuple[str, str]  # an alert, and the label that distinguishes its rules

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
]


def stated() -> dict[Rule, float]:
    """Return each rule's seconds from its cause until it fires at the latest, as its annotation says."""
    return {
        (rule["alert"], rule["labels"].get("window", rule["labels"].get("sign", ""))): seconds(
            rule["annotations"]["fires_within"]
        )
        for rule in ALERTS
    }


@contextmanager
def doing(what: Callable[[], object], pause: float = 0.0) -> Iterator[None]:
    """Again and again in a thread while the block runs, whatever comes of it."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(pause):
            with suppress(DigitsError, requests.RequestException, psutil.NoSuchProcess):
                what()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def fires(found: Prometheus, server: str, causes: dict[Rule, float], within: float | None = None) -> None:
    """Waits until the alerts fire, each within the time after its cause that its rule states, or that is given."""
    limits, left = stated(), set(causes)
    while left:
        now = time.monotonic()
        left -= {(alert, which) for alert, which, of in found.firing() if of == server}
        late = {each for each in left if now > causes[each] + (within or limits[each])}
        assert not late, f"not in time: {late}; firing: {found.firing()}"
        time.sleep(1)


def _healthy_server(found: Prometheus, config: Config, duration: float) -> None:
    """Predict different digits for several callers while a second version is rolled out: no alert fires."""
    images = [encode_png(gray) for gray in load_raw_images("mnist5k")[0]]
    random.Random(0).shuffle(images)
    following = itertools.cycle(images)
    with serving_client(config) as (_, client), ExitStack() as callers:
        start = time.monotonic()
        for _ in range(4):
            callers.enter_context(doing(lambda: client.inference.predict(next(following)), pause=0.05))
        time.sleep(duration / 3)
        client.register("digits-1.1.mar")
        client.promote("1.1")
        time.sleep(max(0.0, start + duration - time.monotonic()))
        assert found.have_fired(HEALTHY) == set()
        assert found.value(f'count(count by (version) (digits_requests_total{{server="{HEALTHY}"}}))') == [2]
        [rate] = found.value(f'server:digits_calls:rate1m{{server="{HEALTHY}"}}')
        assert rate > 20
        assert len(found.value(f'digits_drift_psi{{server="{HEALTHY}"}}')) >= 6


def _sick_server(found: Prometheus, config: Config) -> None:
    with started(config) as process:
        output_until_curl(process)
        _make_sick(found, config, process)
        _flood(found, config, process)


def _make_sick(found: Prometheus, config: Config, process: "subprocess.Popen[str]") -> None:
    """Drifting and slow, with workers that die: all at once, as what is sick is."""
    inverted = [encode_png(255 - grey) for grey in load_raw_images("mnist5k")[0][::250]]
    slow = make_batch_body(*[make_large_image()] * 8, *inverted)  # over 0.2 s of a worker's
    url = config.get_url("inference") + "/predictions/digits"
    headers = JSON | {"Authorization": f"Bearer {read_token(config.key_file, 'inference')}"}
    start = time.monotonic()

    with ExitStack() as callers:
        for _ in range(4):
            callers.enter_context(doing(lambda: requests.post(url, slow, headers=headers, timeout=20)))
        burning = [("DigitsLatencyBudgetBurn", window) for window in ("1h", "6h", "1d", "3d")]
        causes = dict.fromkeys([("DigitsDrift", ""), ("DigitsQueueGrowing", "wait"), *burning], start)
        survivor = min(workers(process), key=lambda each: each.pid)
        for count in (1, 2):
            wait_for(lambda: len(workers(process)) == 2)
            _signal_others(process, survivor, signal.SIGKILL)
            wait_for(lambda: restarts(config) == count)  # noqa: B023 - asked for at once
        causes["DigitsWorkerRestarts", ""] = causes["DigitsWorkersMissing", ""] = time.monotonic()
        _signal_others(process, survivor, signal.SIGKILL)
        # New workers stand still before they are READY: TorchServe waits two minutes for them.
        with doing(lambda: _signal_others(process, survivor, signal.SIGSTOP), pause=0.2):
            fires(found, SICK, causes)
        _signal_others(process, survivor, signal.SIGKILL)


def restarts(config: Config) -> float:
    with StatusClient(server=config.make_server()) as client:
        return sum(each.value for each in client.read_metrics(False) if each.name == "digits_worker_restarts_total")


def _signal_others(process: "subprocess.Popen[str]", survivor: psutil.Process, number: signal.Signals) -> None:
    for worker in workers(process):
        if worker != survivor:
            worker.send_signal(number)


def _flood(found: Prometheus, config: Config, process: "subprocess.Popen[str]") -> None:
    """No worker takes what comes, and more comes than may wait."""
    picture = encode_png(load_raw_images("mnist5k")[0][0])
    token = read_token(config.key_file, "inference")
    head = f"POST /predictions/digits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    request = f"{head}Content-Length: {len(picture)}\r\n\r\n".encode() + picture
    connections: deque[socket.socket] = deque()

    def send() -> None:
        """Send a request over a connection of its own, whether or not earlier ones have a response."""
        connections.append(socket.create_connection(config.get_ports()["inference"]))
        connections[-1].sendall(request)
        if len(connections) > FLOOD:
            connections.popleft().close()

    wait_for(lambda: ("DigitsErrorRatio", "", SICK) not in found.firing())  # as it may when workers die
    stopped = workers(process)
    for each in stopped:
        each.suspend()
    start = time.monotonic()
    try:
        with doing(send, pause=1 / FLOOD_RATE):
            flooded = [("DigitsErrorRatio", ""), ("DigitsQueueGrowing", "backlog"), ("DigitsNotReady", "")]
            fires(found, SICK, dict.fromkeys(flooded, start))
    finally:
        for connection in connections:
            connection.close()
        for each in stopped:
            with suppress(psutil.NoSuchProcess):
                each.resume()


def three(folder: Path) -> dict[str, Config]:
    archives = with_archives(folder, "1.0", "1.1")
    configs = {}
    for name in (HEALTHY, SICK, STUCK):
        (folder / name).mkdir()
        configs[name] = configure_free_ports(folder / name, archives.model_store)
    text = configs[STUCK].path.read_text()
    configs[STUCK].path.write_text(re.sub("token_expiration_min=.*", "token_expiration_min=1", text))
    return configs | {STUCK: read_config(configs[STUCK].path)}


def _stuck_server(found: Prometheus, config: Config) -> None:
    """Its tokens cannot be changed, for its Java stands still; that is killed and comes back; then all is gone."""
    with started(config) as process:
        output_until_curl(process)
        wait_for(lambda: bool(found.value(f'digits_token_lifetime_seconds{{server="{STUCK}"}}')))
        stands = java(process)
        stands.suspend()
        try:
            start = time.monotonic()
            fires(found, STUCK, {("DigitsKeyExpiring", ""): start + 36}, within=60)  # when 0.4 of a minute are left
            fires(found, STUCK, {("DigitsNotReady", ""): start}, within=120)
        finally:
            stands.kill()
        fires(found, STUCK, {("DigitsServerRestarts", ""): time.monotonic()})
        wait_for(lambda: ("DigitsDown", "", STUCK) not in found.firing())
    fires(found, STUCK, {("DigitsDown", ""): time.monotonic()})


@pytest.mark.timeout(600)
def test_alerts_fire_in_time_on_their_causes_and_none_in_three_healthy_minutes(tmp_path: Path) -> None:
    configs = three(tmp_path)
    with prometheus(tmp_path, configs) as found, ThreadPoolExecutor(3) as pool:
        servers = [pool.submit(_healthy_server, found, configs[HEALTHY], 180)]
        servers += [
            pool.submit(server, found, configs[name]) for name, server in ((SICK, _sick_server), (STUCK, _stuck_server))
        ]
        for each in servers:
            each.result()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_alert_fires_in_ten_healthy_minutes(tmp_path: Path) -> None:
    configs = three(tmp_path)
    with prometheus(tmp_path, {HEALTHY: configs[HEALTHY]}) as found:
        _healthy_server(found, configs[HEALTHY], 600)
