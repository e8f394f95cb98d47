"""Tests that the metrics on port 8083 match the responses of thousands of requests exactly."""

import json
import os
import random
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from digits_client.status import StatusClient
from digits_client.transport import read_token
from evaluation.outlier_images import make_textures
from evaluation.sets import encode_png
from serving.archive import compute_sha256, get_archive_path
from serving.config import ROOT, Config
from serving.local_management import LocalManagementClient
from tests.handler_calls import JSON, make_batch_body
from tests.images import SMOKE, bad_images
from tests.servers import Load, configure_with_archives, run_load, run_server, wait_for
from tests.test_metrics import DARK_ON_LIGHT

pytestmark = pytest.mark.slow

VERSIONS = ("1.0", "1.1")
REQUESTS = 5000
CALLERS = 8
BATCH = 16  # handler/model-config.yaml's
BLANK = bad_images()["blank white"].body


@dataclass(frozen=True)
class Exchange:
    """A request and its response."""

    kind: str
    version: str  # named in the request or the response
    status: int
    results: list[dict[str, Any]]  # a prediction or an error per image


def plan_requests() -> list[tuple[str, str, bytes]]:
    """Return kind, named version and body: mostly good images for the default version; bad ones name their version."""
    generator = random.Random(7)
    rare = [
        ("predict", b"none"),
        ("predict", b""),
        ("predict", BLANK),
        ("predict_batch", b"{"),
        ("predict", DARK_ON_LIGHT),
    ]
    rare += [
        ("predict_batch", make_batch_body(SMOKE[1], BLANK, b"none")),
        ("explain", SMOKE[3]),
        ("predict", make_rejected_image()),
    ]
    planned = []
    for _ in range(REQUESTS):
        if generator.random() < 0.8:
            planned.append(("predict", "", SMOKE[generator.randrange(10)]))
        else:
            kind, body = generator.choice(rare)
            planned.append((kind, generator.choice(VERSIONS), body))
    return planned


def make_rejected_image() -> bytes:
    """Make an image whose prediction is rejected."""
    return encode_png(make_textures(np.random.default_rng(1), 2)[1])


class Callers:
    """Threads that send the planned requests in turn."""

    def __init__(self, config: Config, planned: list[tuple[str, str, bytes]]) -> None:
        self.config, self.planned = config, iter(planned)
        self.lock = threading.Lock()
        self.exchanges: list[Exchange] = []

    def run(self) -> None:
        token = read_token(self.config.key_file, "inference")
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {token}"
            while True:
                with self.lock:
                    planned = next(self.planned, None)
                if planned is None:
                    return
                self.exchanges.append(self._send(session, *planned))

    def _send(self, session: requests.Session, kind: str, version: str, body: bytes) -> Exchange:
        path = "explanations" if kind == "explain" else "predictions"
        url = f"{self.config.get_url('inference')}/{path}/digits" + (f"/{version}" if version else "")
        response = session.post(url, body, headers=JSON if kind == "predict_batch" else {}, timeout=30)
        parsed = response.json()
        results = parsed.get("predictions", [parsed])
        responder = next((result["model_version"] for result in results if "model_version" in result), version)
        if response.status_code >= 400:
            kind = "predict"  # invalid requests are counted as this kind
        return Exchange(kind, responder, response.status_code, results)


def compute_expected(exchanges: list[Exchange], version: str) -> dict[str, float]:
    """Compute all counters and counts of histograms from the exchanges: name with labels -> value."""
    own = [exchange for exchange in exchanges if exchange.version == version]
    results = [result for exchange in own for result in exchange.results]
    framed = [result for result in results if "digit" in result]
    predictions = [result for result in framed if "probabilities" in result]  # explanations have fewer fields
    errors = Counter((result["code"], result["type"]) for result in results if "code" in result)
    invalid_requests, blank = errors[400, "InvalidRequest"], errors[422, "InvalidImage"]
    values: Counter[str] = Counter(f"requests_total {exchange.kind} {exchange.status}" for exchange in own)
    values |= Counter(f"predictions_total {result['digit']}" for result in framed)
    values |= Counter(f"warnings_total {warning}" for result in predictions for warning in result["warnings"])
    values["low_confidence_total"] = sum(not result["accepted"] for result in predictions)
    values["errors_total unreadable"] = errors[400, "InvalidImage"]
    values["errors_total blank"] = blank
    values["errors_total invalid_request"] = invalid_requests
    for name in ("confidence", "foreground_ratio", "stroke_width_pixels", "image_size_pixels"):
        values[f"{name}_count"] = len(framed)
    values["inference_duration_seconds_count"] = len(framed)
    values["decode_duration_seconds_count"] = len(results) - invalid_requests
    values["framing_duration_seconds_count"] = len(framed) + blank
    values["handler_duration_seconds_count"] = values["batch_requests_sum"] = len(own)
    return {name: value for name, value in values.items() if value}


def read_counts(config: Config, version: str) -> dict[str, float]:
    """Read the same values from port 8083, without those that are 0 or differ from run to run."""
    with StatusClient(server=config.make_server()) as client:
        samples = [sample for sample in client.read_metrics(False) if sample.labels.get("version") == version]
    values = {}
    for sample in samples:
        name = sample.name.removeprefix("digits_")
        counts = name.endswith(("_total", "_count")) or name == "batch_requests_sum"
        if counts and name not in ("busy_seconds_total", "probes_total", "batch_requests_count"):
            labels = [sample.labels[label] for label in ("kind", "status", "digit", "reason", "warning")
                      if label in sample.labels]  # fmt: skip
            values[" ".join([name, *labels])] = sample.value
    return {name: value for name, value in values.items() if value}


@pytest.mark.timeout(300)
def test_every_count_is_exact_and_a_killed_worker_costs_at_most_a_batch(tmp_path: Path) -> None:
    config = configure_with_archives(tmp_path, *VERSIONS)
    with run_server(config) as (_, client):
        client.register("digits-1.1.mar")
        callers = Callers(config, plan_requests())
        with ThreadPoolExecutor(CALLERS) as pool:
            running = [pool.submit(callers.run) for _ in range(CALLERS)]
            wait_for(lambda: len(callers.exchanges) > REQUESTS / 2)
            client.promote("1.1")
            for future in running:
                future.result()
        assert len(callers.exchanges) == REQUESTS
        assert {exchange.status for exchange in callers.exchanges} == {200, 400, 422}
        for version in VERSIONS:
            successes = [one for one in callers.exchanges if one.version == version and one.status == 200]
            assert len(successes) > REQUESTS / 4
            counts = read_counts(config, version)
            assert counts == compute_expected(callers.exchanges, version)
            assert {"low_confidence_total", "warnings_total inverted"} < counts.keys()
        _check_kill(config, client)


def _check_kill(config: Config, client: LocalManagementClient) -> None:
    [victim, _] = client.list_versions()["1.1"].workers
    before = read_counts(config, "1.1")["requests_total predict 200"]
    with run_load(Load(config, connections=CALLERS)) as load:
        os.kill(victim.pid, signal.SIGKILL)
        wait_for(lambda: len(load.records) > 500)
    finished = len(load.records) - len(load.failures)
    counted = read_counts(config, "1.1")["requests_total predict 200"] - before
    assert finished <= counted <= finished + BATCH
    wait_for(lambda: read_gauges(client, "digits_worker_restarts_total") == {"1.0": 0, "1.1": 1})
    wait_for(lambda: read_gauges(client, "digits_workers_ready") == {"1.0": 2, "1.1": 2})
    assert read_gauges(client, "digits_workers_desired") == {"1.0": 2, "1.1": 2}
    assert read_gauges(client, "digits_model_default") == {"1.0": 0, "1.1": 1}
    assert read_gauges(client, "digits_queue_capacity_requests") == {"1.0": 512, "1.1": 512}
    record = json.loads((ROOT / "model" / "model.json").read_text())
    for info in [sample for sample in client.status.read_metrics(False) if sample.name == "digits_model_info"]:
        assert info.labels["run_id"] == record["run_id"]
        assert info.labels["accuracy"] == f"{record['metrics']['test']['accuracy']:.4f}"
        assert info.labels["archive_sha256"] == compute_sha256(
            get_archive_path(config.model_store, info.labels["version"])
        )


def read_gauges(client: LocalManagementClient, name: str) -> dict[str, float]:
    """Return the metric's values by version."""
    return {item.labels["version"]: item.value for item in client.status.read_metrics(False) if item.name == name}
