"""What port 8083 tells after thousands of requests, against what those who asked have got: exact, to the last one."""

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
from evaluation.outlier_sets import make_textures
from evaluation.sets import encode_png
from serving.archive import archive_path, sha256
from serving.config import ROOT, Config
from serving.local_management import LocalManagementClient
from tests.handler_calls import JSON, make_batch_body
from tests.pictures import SMOKE, bad_pictures
from tests.servers import Load, serving_client, under_load, wait_for, with_archives
from tests.test_metrics import DARK_ON_LIGHT

pytestmark = pytest.mark.slow

VERSIONS = ("1.0", "1.1")
REQUESTS = 5000
CALLERS = 8
BATCH = 16  # handler/model-config.yaml's
BLANK = bad_pictures()["blank white"].body


@dataclass(frozen=True)
class Exchange:
    """A request and what came of it."""

    kind: str
    version: str  # that was named, or that answered
    status: int
    answers: list[dict[str, Any]]  # an answer or a refusal for each picture


def plan() -> list[tuple[str, str, bytes]]:
    """Kind, named version and body: mostly good ones by the default version; what is refused names its version."""
    drawn = random.Random(7)
    rare = [("digit", b"none"), ("digit", b""), ("digit", BLANK), ("digits", b"{"), ("digit", DARK_ON_LIGHT)]
    rare += [("digits", make_batch_body(SMOKE[1], BLANK, b"none")), ("explanation", SMOKE[3]), ("digit", rejected())]
    planned = []
    for _ in range(REQUESTS):
        if drawn.random() < 0.8:
            planned.append(("digit", "", SMOKE[drawn.randrange(10)]))
        else:
            kind, body = drawn.choice(rare)
            planned.append((kind, drawn.choice(VERSIONS), body))
    return planned


def rejected() -> bytes:
    """A picture that is read but not accepted."""
    return encode_png(make_textures(np.random.default_rng(1), 2)[1])


class Callers:
    """So many threads that take from the plan in turn."""

    def __init__(self, config: Config, planned: list[tuple[str, str, bytes]]) -> None:
        self.config, self.planned = config, iter(planned)
        self.lock = threading.Lock()
        self.asked: list[Exchange] = []

    def run(self) -> None:
        key = read_token(self.config.key_file, "inference")
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {key}"
            while True:
                with self.lock:
                    planned = next(self.planned, None)
                if planned is None:
                    return
                self.asked.append(self._ask(session, *planned))

    def _ask(self, session: requests.Session, kind: str, version: str, body: bytes) -> Exchange:
        path = "explanations" if kind == "explanation" else "predictions"
        url = f"{self.config.url('inference')}/{path}/digits" + (f"/{version}" if version else "")
        response = session.post(url, body, headers=JSON if kind == "digits" else {}, timeout=30)
        told = response.json()
        answers = told.get("predictions", [told])
        answered = next((each["model_version"] for each in answers if "model_version" in each), version)
        if response.status_code >= 400:
            kind = "digit"  # what is refused whole is counted so
        return Exchange(kind, answered, response.status_code, answers)


def expected(asked: list[Exchange], version: str) -> dict[str, float]:
    """Name with its labels -> value, of every counter and every count of a histogram."""
    own = [each for each in asked if each.version == version]
    answers = [answer for each in own for answer in each.answers]
    read = [answer for answer in answers if "digit" in answer]
    digits = [answer for answer in read if "probabilities" in answer]  # an explanation tells less
    refusals = Counter((answer["code"], answer["type"]) for answer in answers if "code" in answer)
    unread = refusals[400, "InvalidRequest"]
    told: Counter[str] = Counter(f"requests_total {each.kind} {each.status}" for each in own)
    told |= Counter(f"predictions_total {answer['digit']}" for answer in read)
    told |= Counter(f"warnings_total {warning}" for answer in digits for warning in answer["warnings"])
    told["rejections_total"] = sum(not answer["accepted"] for answer in digits)
    told["refusals_total unreadable"] = refusals[400, "InvalidImage"]
    told["refusals_total blank"] = refusals[422, "InvalidImage"]
    told["refusals_total invalid_request"] = unread
    for name in ("confidence", "ink_ratio", "stroke_width_pixels", "picture_size_pixels", "inference_seconds"):
        told[f"{name}_count"] = len(read)
    told["decode_seconds_count"] = len(answers) - unread
    told["framing_seconds_count"] = len(read) + refusals[422, "InvalidImage"]
    told["handler_seconds_count"] = told["batch_requests_sum"] = len(own)
    return {name: value for name, value in told.items() if value}


def served(config: Config, version: str) -> dict[str, float]:
    """The same of 8083, less what is 0 and what differs from run to run."""
    with StatusClient(server=config.make_server()) as client:
        samples = [each for each in client.read_metrics(False) if each.labels.get("version") == version]
    told = {}
    for sample in samples:
        name = sample.name.removeprefix("digits_")
        counts = name.endswith(("_total", "_count")) or name == "batch_requests_sum"
        if counts and name not in ("busy_seconds_total", "probes_total", "batch_requests_count"):
            labels = [sample.labels[label] for label in ("kind", "status", "digit", "reason", "warning")
                      if label in sample.labels]  # fmt: skip
            told[" ".join([name, *labels])] = sample.value
    return {name: value for name, value in told.items() if value}


@pytest.mark.timeout(300)
def test_every_count_is_exact_and_a_killed_worker_costs_a_batch_at_most(tmp_path: Path) -> None:
    config = with_archives(tmp_path, *VERSIONS)
    with serving_client(config) as (_, client):
        client.register("digits-1.1.mar")
        callers = Callers(config, plan())
        with ThreadPoolExecutor(CALLERS) as pool:
            running = [pool.submit(callers.run) for _ in range(CALLERS)]
            wait_for(lambda: len(callers.asked) > REQUESTS / 2)
            client.promote("1.1")
            for each in running:
                each.result()
        assert len(callers.asked) == REQUESTS
        assert {each.status for each in callers.asked} == {200, 400, 422}
        for version in VERSIONS:
            of_default = [each for each in callers.asked if each.version == version and each.status == 200]
            assert len(of_default) > REQUESTS / 4
            assert served(config, version) == expected(callers.asked, version)
            assert {"rejections_total", "warnings_total inverted"} < served(config, version).keys()
        _check_kill(config, client)


def _check_kill(config: Config, client: LocalManagementClient) -> None:
    [victim, _] = client.list_versions()["1.1"].workers
    before = served(config, "1.1")["requests_total digit 200"]
    with under_load(Load(config, connections=CALLERS)) as load:
        os.kill(victim.pid, signal.SIGKILL)
        wait_for(lambda: len(load.sent) > 500)
    answered = len(load.sent) - len(load.failed)
    counted = served(config, "1.1")["requests_total digit 200"] - before
    assert answered <= counted <= answered + BATCH
    wait_for(lambda: gauges(client, "digits_worker_restarts_total") == {"1.0": 0, "1.1": 1})
    wait_for(lambda: gauges(client, "digits_workers_ready") == {"1.0": 2, "1.1": 2})
    assert gauges(client, "digits_workers_wanted") == {"1.0": 2, "1.1": 2}
    assert gauges(client, "digits_model_default") == {"1.0": 0, "1.1": 1}
    assert gauges(client, "digits_queue_capacity_requests") == {"1.0": 512, "1.1": 512}
    record = json.loads((ROOT / "model" / "model.json").read_text())
    for info in [each for each in client.status.read_metrics(False) if each.name == "digits_model_info"]:
        assert info.labels["run_id"] == record["run_id"]
        assert info.labels["accuracy"] == f"{record['metrics']['test']['accuracy']:.4f}"
        assert info.labels["archive_sha256"] == sha256(archive_path(config.model_store, info.labels["version"]))


def gauges(client: LocalManagementClient, name: str) -> dict[str, float]:
    """Version -> value."""
    return {each.labels["version"]: each.value for each in client.status.read_metrics(False) if each.name == name}
