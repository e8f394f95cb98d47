"""A normal load behind nginx with clients that send nothing or half a body, or disconnect; run by `make soak`."""

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from digits_client.client import DigitsClient
from serving.config import Config
from tests.images import SMOKE
from tests.nginx import format_request, needs_nginx, run_behind_nginx

# The normal load: 8 connections with an image every 0.1 s: 80 a second, under the limit of 100.
CONNECTIONS, EVERY = 8, 0.1
RUDE_CLIENTS = 200
ROUNDS, PHASE = 5, 3.0  # s without and then with rude clients, in turn
STAY, PAUSE = 0.2, 0.3  # s until a rude client leaves, and until it comes again
RUDE = "127.0.0.2"  # their address, which has limits of its own


def measure_p99(config: Config) -> float:
    """Send the normal load for PHASE seconds; return its 99th percentile in ms. Raises if a request fails."""
    end = time.monotonic() + PHASE

    def send_steadily(delay: float) -> list[float]:
        seconds = []
        time.sleep(delay)
        with DigitsClient(server=config.make_server(), retries=0) as client:
            while (start := time.monotonic()) < end:
                assert client.predict(SMOKE[7]).digit == 7
                seconds.append(time.monotonic() - start)
                time.sleep(max(0.0, EVERY - seconds[-1]))
        return seconds

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        by_connection = list(pool.map(send_steadily, np.arange(CONNECTIONS) * EVERY / CONNECTIONS))
    return 1000 * float(np.percentile(np.concatenate(by_connection), 99))


@contextmanager
def run_rude_process(config: Config) -> Iterator[None]:
    """Run RUDE_CLIENTS in a separate process while the block runs."""
    context = multiprocessing.get_context("spawn")  # threads of this process hold locks that a fork would inherit
    started, half = context.Event(), format_request(config, bytes(16384))[:-8192]
    process = context.Process(target=run_rude_clients, args=(config.get_ports()["inference"], half, started))
    process.start()
    try:
        assert started.wait(30)
        time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.join()
        time.sleep(0.3)


def run_rude_clients(address: tuple[str, int], half: bytes, started: Event) -> None:
    async def come_and_go() -> None:
        started.set()
        kinds = ("sends nothing", "half, then nothing", "half, then leaves")
        await asyncio.gather(*(be_rude(kinds[index % 3], address, half) for index in range(RUDE_CLIENTS)))

    os.nice(10)  # as if on another machine: they must not compete for these processors
    asyncio.run(come_and_go())


async def be_rude(kind: str, address: tuple[str, int], half: bytes) -> None:
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*address, local_addr=(RUDE, 0))
            if kind != "sends nothing":
                writer.write(half)
            if kind == "half, then leaves":
                await asyncio.sleep(STAY)
            else:
                await reader.read(len("HTTP/1.1 429"))
            writer.close()
        await asyncio.sleep(PAUSE)


@pytest.mark.soak
@needs_nginx
def test_rude_clients_cost_a_normal_load_behind_nginx_nothing(server: Config, tmp_path: Path) -> None:
    without, beside = [], []
    with run_behind_nginx(server, tmp_path) as front:
        measure_p99(front)  # warms up
        for _ in range(ROUNDS):
            without.append(measure_p99(front))
            with run_rude_process(front):
                beside.append(measure_p99(front))
    ratio = statistics.median(beside) / statistics.median(without)
    print(f"p99 without {RUDE_CLIENTS} rude clients {without} ms, beside them {beside} ms: {ratio:.2f} times")
    assert RUDE in (tmp_path / "nginx-access.log").read_text()
    assert ratio <= 2
