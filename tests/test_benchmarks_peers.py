"""The servers that are compared: each answers as the project does, and ends to the last process."""

import json
from base64 import b64decode
from pathlib import Path

import psutil
import pytest
import requests as http
import yaml
from handler.reader import Reader

from benchmarks import contenders, loads
from benchmarks.contenders import DEFAULTS, FASTAPI, IDLE, LITSERVE, started
from benchmarks.loads import JSON, PATH, as_sent, photos, write_requests
from benchmarks.usage import family
from handler.preprocessing import examine
from serving.archive import cores
from serving.client import DigitsClient
from serving.config import ROOT, ServingError, read_config
from serving.pictures import instances
from tests.pictures import SMOKE

EXTRA = {FASTAPI: "fastapi", LITSERVE: "litserve", DEFAULTS: "ts"}


@pytest.mark.parametrize("name", [FASTAPI, LITSERVE, DEFAULTS])
def test_a_peer_answers_as_the_project_does(name: str, tmp_path: Path) -> None:
    pytest.importorskip(EXTRA[name], reason="of the bench extra: pip install -r requirements-bench.txt")
    reader = Reader(ROOT / "scripted_model.pt", ROOT / "model" / "model.json", "1.0")
    expected = classifier.predict([[examine(SMOKE[7]), examine(SMOKE[3])]])
    with started(name, tmp_path) as server:
        processes = family(server.process.pid)
        assert asked(server, *server.plan.wrap(SMOKE[7]))["probabilities"] == pytest.approx(
            expected[0]["probabilities"], abs=1e-5
        )
        told = asked(server, instances([SMOKE[7], SMOKE[3]]), JSON)["predictions"]
        assert [each["digit"] for each in told] == [7, 3]
        assert told[1].keys() == expected[1].keys()
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_the_idle_handler_is_served_as_the_projects_own(tmp_path: Path) -> None:
    with started(IDLE, tmp_path) as server:
        assert asked(server, *server.plan.wrap(SMOKE[7])) == {}
        with DigitsClient(read_config(tmp_path / "config.properties")) as client:
            [told] = client.models().values()
    settings = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    assert (told.batch_size, told.max_batch_delay) == (settings["batchSize"], settings["maxBatchDelay"])
    assert len(told.workers) == cores()


def asked(server: contenders.Server, body: bytes, content_type: str) -> dict[str, list[dict[str, object]]]:
    headers = contenders._headers(server.plan) | {"Content-Type": content_type}
    response = http.post(f"http://127.0.0.1:{server.plan.port}{PATH}", body, headers=headers, timeout=30)
    assert response.status_code == 200, response.text
    told: dict[str, list[dict[str, object]]] = response.json()
    return told


def test_a_server_that_ends_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "LOGS", tmp_path)
    monkeypatch.setitem(contenders.PLANS, FASTAPI, lambda _: contenders.Plan(["false"], 9))
    told = r"FastAPI \+ uvicorn ended with code 1; see .*fastapi\.log"
    with pytest.raises(ServingError, match=told), started(FASTAPI, tmp_path):
        pass


def test_requests_are_many_different_pictures(tmp_path: Path) -> None:
    listed = write_requests(tmp_path / "png", "png", as_sent, {"Authorization": "Bearer key"}).read_text().split()
    assert len(set(listed)) == len(listed) == loads.PICTURES
    head, _, body = Path(listed[0]).read_bytes().partition(b"\r\n\r\n")
    assert b"Authorization: Bearer key" in head
    assert f"Content-Length: {len(body)}".encode() in head
    examine(body)


def test_a_bulk_request_has_64_pictures(tmp_path: Path) -> None:
    listed = write_requests(tmp_path / "bulk", "bulk", as_sent, {}).read_text().split()
    sent = json.loads(Path(listed[0]).read_bytes().partition(b"\r\n\r\n")[2])["instances"]
    assert len(sent) == 64
    examine(b64decode(sent[63]["b64"]))


def test_one_of_twenty_in_the_mix_is_a_large_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "photos", lambda: [b"\xff\xd8 one", b"\xff\xd8 other"])
    listed = write_requests(tmp_path / "mix", "mix", as_sent, {}).read_text().split()
    large = [place for place, path in enumerate(listed) if b"image/jpeg" in Path(path).read_bytes()]
    assert large == list(range(0, loads.PICTURES, 20))


def test_the_large_photos_are_digits_of_12_megapixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "PHOTOS", 1)
    [jpeg] = photos.__wrapped__()
    assert 1e6 < len(jpeg) < 6_553_500  # TorchServe's default limit
    examine(jpeg)
