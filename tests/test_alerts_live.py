"""monitoring/rules in a real Prometheus: no alert for healthy servers, alerts in time for failures with real causes.

Three servers are scraped: a healthy one with requests and a roll-out, one that fails under load and killed workers, and
one whose Java process is suspended and killed.
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
from tests.prometheus import Prometheus, run_prometheus
from tests.servers import (
    configure_free_ports,
    configure_with_archives,
    find_java,
    list_workers,
    read_until_curl,
    run_process,
    run_server,
    wait_for,
)
from tests.test_monitoring_rules import ALERTS, parse_duration
from training.data import load_raw_images

HEALTHY, FAILING, STUCK = "healthy", "failing", "stuck"
FLOOD = 700  # connections; 512 may wait
FLOOD_RATE = 100  # requests a second, so that it leaves others their CPU
Rule = tuple[str, str]  # an alert, and the label that distinguishes its rules

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"),
]


def read_time_limits() -> dict[Rule, float]:
    """Return the longest time from cause to alert by rule, in seconds, from the annotations."""
    return {
        (rule["alert"], rule["labels"].get("window", rule["labels"].get("sign", ""))): parse_duration(
            rule["annotations"]["fires_within"]
        )
        for rule in ALERTS
    }


@contextmanager
def repeat_in_thread(action: Callable[[], object], pause: float = 0.0) -> Iterator[None]:
    """Repeat an action in a thread while the block runs; ignore its errors."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(pause):
            with suppress(DigitsError, requests.RequestException, psutil.NoSuchProcess):
                action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def assert_fires(found: Prometheus, server: str, causes: dict[Rule, float], within: float | None = None) -> None:
    """Wait until the alerts fire, within the time after their cause that the rule states, or `within`."""
    limits, missing = read_time_limits(), set(causes)
    while missing:
        now = time.monotonic()
        missing -= {(alert, which) for alert, which, of in found.list_firing() if of == server}
        late = {rule for rule in missing if now > causes[rule] + (within or limits[rule])}
        assert not late, f"not in time: {late}; firing: {found.list_firing()}"
        time.sleep(1)


def _run_healthy_server(found: Prometheus, config: Config, duration: float) -> None:
    """Predict different digits for several callers while a second version is rolled out: no alert fires."""
    images = [encode_png(gray) for gray in load_raw_images("mnist5k")[0]]
    random.Random(0).shuffle(images)
    following = itertools.cycle(images)
    with run_server(config) as (_, client), ExitStack() as callers:
        start = time.monotonic()
        for _ in range(4):
            callers.enter_context(repeat_in_thread(lambda: client.inference.predict(next(following)), pause=0.05))
        time.sleep(duration / 3)
        client.register("digits-1.1.mar")
        client.promote("1.1")
        time.sleep(max(0.0, start + duration - time.monotonic()))
        assert found.list_fired(HEALTHY) == set()
        assert found.query_values(f'count(count by (version) (digits_requests_total{{server="{HEALTHY}"}}))') == [2]
        [rate] = found.query_values(f'server:digits_calls:rate1m{{server="{HEALTHY}"}}')
        assert rate > 20
        assert len(found.query_values(f'digits_drift_psi{{server="{HEALTHY}"}}')) >= 6


def _run_failing_server(found: Prometheus, config: Config) -> None:
    with run_process(config) as process:
        read_until_curl(process)
        _cause_failures(found, config, process)
        _flood(found, config, process)


def _cause_failures(found: Prometheus, config: Config, process: "subprocess.Popen[str]") -> None:
    """Cause drift, slow requests and dead workers at once."""
    inverted = [encode_png(255 - gray) for gray in load_raw_images("mnist5k")[0][::250]]
    slow = make_batch_body(*[make_large_image()] * 8, *inverted)  # over 0.2 s of a worker's
    url = config.get_url("inference") + "/predictions/digits"
    headers = JSON | {"Authorization": f"Bearer {read_token(config.key_file, 'inference')}"}
    start = time.monotonic()

    with ExitStack() as callers:
        for _ in range(4):
            callers.enter_context(repeat_in_thread(lambda: requests.post(url, slow, headers=headers, timeout=20)))
        burning = [("DigitsLatencyBudgetBurn", window) for window in ("1h", "6h", "1d", "3d")]
        causes = dict.fromkeys([("DigitsDrift", ""), ("DigitsQueueGrowing", "wait"), *burning], start)
        survivor = min(list_workers(process), key=lambda worker: worker.pid)
        for count in (1, 2):
            wait_for(lambda: len(list_workers(process)) == 2)
            _signal_others(process, survivor, signal.SIGKILL)
            wait_for(lambda: count_restarts(config) == count)  # noqa: B023 - called at once
        causes["DigitsWorkerRestarts", ""] = causes["DigitsWorkersMissing", ""] = time.monotonic()
        _signal_others(process, survivor, signal.SIGKILL)
        # New workers are suspended before they are READY: TorchServe waits two minutes for them.
        with repeat_in_thread(lambda: _signal_others(process, survivor, signal.SIGSTOP), pause=0.2):
            assert_fires(found, FAILING, causes)
        _signal_others(process, survivor, signal.SIGKILL)


def count_restarts(config: Config) -> float:
    with StatusClient(server=config.make_server()) as client:
        return sum(
            metric.value for metric in client.read_metrics(False) if metric.name == "digits_worker_restarts_total"
        )


def _signal_others(process: "subprocess.Popen[str]", survivor: psutil.Process, number: signal.Signals) -> None:
    for worker in list_workers(process):
        if worker != survivor:
            worker.send_signal(number)


def _flood(found: Prometheus, config: Config, process: "subprocess.Popen[str]") -> None:
    """Suspend the workers and send more requests than the queue holds."""
    image = encode_png(load_raw_images("mnist5k")[0][0])
    token = read_token(config.key_file, "inference")
    head = f"POST /predictions/digits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    request = f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image
    connections: deque[socket.socket] = deque()

    def send() -> None:
        """Send a request over a connection of its own, whether or not earlier ones have a response."""
        connections.append(socket.create_connection(config.get_ports()["inference"]))
        connections[-1].sendall(request)
        if len(connections) > FLOOD:
            connections.popleft().close()

    wait_for(lambda: ("DigitsErrorRatio", "", FAILING) not in found.list_firing())  # it may fire when workers die
    stopped = list_workers(process)
    for worker in stopped:
        worker.suspend()
    start = time.monotonic()
    try:
        with repeat_in_thread(send, pause=1 / FLOOD_RATE):
            flooded = [("DigitsErrorRatio", ""), ("DigitsQueueGrowing", "backlog"), ("DigitsNotReady", "")]
            assert_fires(found, FAILING, dict.fromkeys(flooded, start))
    finally:
        for connection in connections:
            connection.close()
        for worker in stopped:
            with suppress(psutil.NoSuchProcess):
                worker.resume()


def configure_servers(folder: Path) -> dict[str, Config]:
    archives = configure_with_archives(folder, "1.0", "1.1")
    configs = {}
    for name in (HEALTHY, FAILING, STUCK):
        (folder / name).mkdir()
        configs[name] = configure_free_ports(folder / name, archives.model_store)
    text = configs[STUCK].path.read_text()
    configs[STUCK].path.write_text(re.sub("token_expiration_min=.*", "token_expiration_min=1", text))
    return configs | {STUCK: read_config(configs[STUCK].path)}


def _run_stuck_server(found: Prometheus, config: Config) -> None:
    """Suspend Java, so that tokens cannot be replaced; kill it, so that it restarts; then stop the server."""
    with run_process(config) as process:
        read_until_curl(process)
        wait_for(lambda: bool(found.query_values(f'digits_token_lifetime_seconds{{server="{STUCK}"}}')))
        process_of_java = find_java(process)
        process_of_java.suspend()
        try:
            start = time.monotonic()
            assert_fires(found, STUCK, {("DigitsKeyExpiring", ""): start + 36}, within=60)  # 0.4 of a minute is left
            assert_fires(found, STUCK, {("DigitsNotReady", ""): start}, within=120)
        finally:
            process_of_java.kill()
        assert_fires(found, STUCK, {("DigitsServerRestarts", ""): time.monotonic()})
        wait_for(lambda: ("DigitsDown", "", STUCK) not in found.list_firing())
    assert_fires(found, STUCK, {("DigitsDown", ""): time.monotonic()})


@pytest.mark.timeout(600)
def test_alerts_fire_in_time_and_none_fires_in_three_healthy_minutes(tmp_path: Path) -> None:
    configs = configure_servers(tmp_path)
    with run_prometheus(tmp_path, configs) as found, ThreadPoolExecutor(3) as pool:
        servers = [pool.submit(_run_healthy_server, found, configs[HEALTHY], 180)]
        servers += [
            pool.submit(server, found, configs[name])
            for name, server in ((FAILING, _run_failing_server), (STUCK, _run_stuck_server))
        ]
        for server in servers:
            server.result()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_no_alert_fires_in_ten_healthy_minutes(tmp_path: Path) -> None:
    configs = configure_servers(tmp_path)
    with run_prometheus(tmp_path, {HEALTHY: configs[HEALTHY]}) as found:
        _run_healthy_server(found, configs[HEALTHY], 600)
