"""Clients that send nothing, half a body or leave early, beside a normal load: behind nginx and without it."""

import asyncio
import http.client
import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

import numpy as np
import pytest

from serving.client import DigitsClient
from serving.config import Config
from tests.nginx import (
    PREDICT,
    authorised,
    fronted,
    needs_nginx,
    request,
)
from tests.pictures import SMOKE
from tests.servers import Sent, run_supervised

# The normal load: 8 connections with a picture every 0.1 s each: 80 a second, under the limit of 100.
NORMAL, EVERY = 8, 0.1
RUDE_CLIENTS = 200
ROUNDS, PHASE = 5, 3.0  # quiet and rude by turns, s each
STAY, PAUSE = 0.2, 0.3  # s until a rude client leaves, and until it comes again
RUDE = "127.0.0.2"  # their address, which has limits of its own

pytestmark = needs_nginx


@pytest.fixture(scope="module")
def front(server: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    with fronted(server, tmp_path_factory.mktemp("nginx")) as config:
        yield config


def normal_load(config: Config, seconds: float) -> list[Sent]:
    """Every request of NORMAL connections that are kept, each with a picture every so many seconds."""
    end = time.monotonic() + seconds
    headers = authorised(config)

    def keep_asking(first: float) -> list[Sent]:
        time.sleep(first)
        with closing(http.client.HTTPConnection(*config.ports()["inference"], timeout=30)) as connection:
            return list(steadily(connection, headers, end))

    with ThreadPoolExecutor(NORMAL) as pool:
        by_connection = pool.map(keep_asking, np.arange(NORMAL) * EVERY / NORMAL)
        return [sent for one in by_connection for sent in one]


def steadily(connection: http.client.HTTPConnection, headers: dict[str, str], end: float) -> Iterator[Sent]:
    while (begun := time.monotonic()) < end:
        status, body = 0, b""
        try:
            connection.request("POST", PREDICT, SMOKE[7], headers)
            response = connection.getresponse()
            status, body = response.status, response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
        ended = time.monotonic()
        yield Sent(begun, begun, ended, status, body)
        time.sleep(max(0.0, begun + EVERY - ended))


def p99(sent: list[Sent]) -> float:
    """In milliseconds."""
    return 1000 * float(np.percentile([each.ended - each.begun for each in sent], 99))


def rude_clients(address: tuple[str, int], half: bytes, on: Event, ended: Event, met: "Queue[dict[str, int]]") -> None:
    """RUDE_CLIENTS connections, a third of each kind, while it is on; a process of its own."""
    os.nice(10)  # as if on another machine: they shall not compete for these cores
    asyncio.run(come_and_go(address, half, on, ended, met))


async def come_and_go(
    address: tuple[str, int], half: bytes, on: Event, ended: Event, met: "Queue[dict[str, int]]"
) -> None:
    kinds = ("sends nothing", "half, then nothing", "half, then leaves")
    counts: Counter[str] = Counter()
    met.put({})
    while not ended.is_set():
        if not on.is_set():
            await asyncio.sleep(0.05)
            continue
        tasks = [asyncio.create_task(rude(kinds[index % 3], address, half, counts)) for index in range(RUDE_CLIENTS)]
        while on.is_set() and not ended.is_set():
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    met.put(dict(counts))


async def rude(kind: str, address: tuple[str, int], half: bytes, counts: Counter[str]) -> None:
    while True:
        try:
            await rude_once(kind, address, half, counts)
        except OSError:
            counts[kind + ": connection broken"] += 1
        await asyncio.sleep(PAUSE)


async def rude_once(kind: str, address: tuple[str, int], half: bytes, counts: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection(*address, local_addr=(RUDE, 0))
    counts[kind] += 1
    try:
        if kind != "sends nothing":
            writer.write(half)
            await writer.drain()
        if kind == "half, then leaves":
            await asyncio.sleep(STAY)
        else:
            answer = await reader.read(len("HTTP/1.1 429"))
            counts[f"{kind}: {answer.decode() or 'cut off'}"] += 1
    finally:
        writer.close()


@contextmanager
def rude_process(config: Config) -> Iterator[Event]:
    """They come when the event is set and go when it is cleared; prints at the end how they fared."""
    context = multiprocessing.get_context("spawn")  # threads of this process hold locks that a fork would inherit
    on, ended, met = context.Event(), context.Event(), context.Queue()
    half = request(config, bytes(16384))[:-8192]
    process = context.Process(target=rude_clients, args=(config.ports()["inference"], half, on, ended, met))
    process.start()
    try:
        met.get(timeout=30)  # it has begun
        yield on
    finally:
        ended.set()
        for what, count in sorted(met.get(timeout=30).items()):
            print(f"  {count:6d} {what}")
        process.join()


def beside_rude_clients(config: Config, rounds: int) -> tuple[list[float], list[float], list[Sent]]:
    """p99 of the phases without and with them, in turn, and every request of the normal load."""
    quiet, beside, sent = [], [], normal_load(config, 1.0)
    with rude_process(config) as on:
        for _ in range(rounds):
            phase = normal_load(config, PHASE)
            quiet.append(p99(phase))
            on.set()
            time.sleep(0.5)
            phase_beside = normal_load(config, PHASE)
            beside.append(p99(phase_beside))
            on.clear()
            time.sleep(0.3)
            sent += phase + phase_beside
    return quiet, beside, sent


def lost(sent: list[Sent]) -> Counter[int]:
    """Statuses other than 200 and how often; 0 is a broken connection."""
    return Counter(each.status for each in sent if each.status != 200)


def ratio(where: str, quiet: list[float], beside: list[float], sent: list[Sent]) -> float:
    """Of the medians; prints the figures."""
    before, with_them = statistics.median(quiet), statistics.median(beside)
    print(f"{where}: {len(sent)} requests, lost {dict(lost(sent)) or 'none'}")
    print(f"  p99 without {RUDE_CLIENTS} rude clients {before:.1f} ms {[round(each, 1) for each in quiet]}")
    print(f"  p99 beside them {with_them:.1f} ms {[round(each, 1) for each in beside]}: {with_them / before:.2f} times")
    return with_them / before


@pytest.mark.soak
def test_rude_clients_cost_a_normal_load_behind_nginx_nothing(front: Config) -> None:
    quiet, beside, sent = beside_rude_clients(front, ROUNDS)
    times = ratio("behind nginx", quiet, beside, sent)
    assert len(sent) > 1000
    assert not lost(sent)
    assert times <= 2


@pytest.mark.slow
def test_torchserve_alone_answers_again_after_rude_clients(own: Config) -> None:
    """What they cost without nginx is told, not promised."""
    with run_supervised(own):
        ratio("TorchServe alone", *beside_rude_clients(own, 2))
        with DigitsClient(own, retries=0) as client:
            assert client.predict(SMOKE[7]).digit == 7
