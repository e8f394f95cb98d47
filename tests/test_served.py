"""A real TorchServe with a real archive, over HTTP: answers, refusals, versions, tokens, metrics."""

from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.evaluate_served import predict_served, predict_trained
from handler.decoding import MAX_BYTES
from serving.client import DigitsClient
from serving.config import TOKENS, Config
from serving.connection import RefusedError
from tests.archives import provide_archive
from tests.pictures import SEVENS, SMOKE, Bad, bad_pictures, digits, encode

PREDICT = "/predictions/digits"


def refused(response: requests.Response, bad: Bad) -> bool:
    """Whether it is the contract's refusal of this."""
    refusal = response.json()
    return (
        response.status_code == refusal["code"] == bad.status
        and refusal["type"] == bad.type
        and bool(refusal["message"])
        and response.headers["Content-Type"] == "application/json"
        and "Traceback" not in response.text
    )


@pytest.mark.parametrize("form", SEVENS)
def test_every_form_of_a_picture_is_answered(form: str, client: DigitsClient) -> None:
    assert client.predict(SEVENS[form]()).digit == 7


def test_answer_is_the_contracts_in_json(client: DigitsClient) -> None:
    response = client.request("inference", "POST", PREDICT, data=SMOKE[7])
    answer = response.json()
    assert response.headers["Content-Type"] == "application/json"
    assert list(answer) == ["digit", "confidence", "accepted", "probabilities", "warnings", "model_version"]
    assert (answer["digit"], answer["model_version"], len(answer["probabilities"])) == (7, "1.0", 10)


def test_put_and_multipart_are_ways_in_as_well(client: DigitsClient) -> None:
    put = client.request("inference", "PUT", PREDICT, data=SMOKE[2])
    multipart = client.request(
        "inference", "POST", PREDICT, files={"data": ("two.png", SMOKE[2], "image/png")}
    )  # curl -F
    assert [put.json()["digit"], multipart.json()["digit"]] == [2, 2]


def test_any_content_type_but_a_forms_is_a_raw_body(client: DigitsClient) -> None:
    """curl's --data-binary calls its body a form, which TorchServe then takes apart; the README says what to add."""
    for content_type in ("application/octet-stream", "image/png", "text/plain", "application/json"):
        response = client.request("inference", "POST", PREDICT, data=SMOKE[2], headers={"Content-Type": content_type})
        assert response.json()["digit"] == 2, content_type


def test_served_probabilities_equal_trainings_own_on_500_pictures(server: Config) -> None:
    """By the functions that `make evaluate-served` uses for all of MNIST."""
    pictures = [encode(Image.fromarray(grey)) for grey in digits()[0][::10]]
    assert len(pictures) == 500
    assert np.abs(predict_served(server, pictures) - predict_trained(pictures)).max() <= 1e-4


@pytest.mark.parametrize("name", bad_pictures())
def test_bad_input_gets_the_contracts_refusal(name: str, client: DigitsClient) -> None:
    bad = bad_pictures()[name]
    assert refused(client.request("inference", "POST", PREDICT, **bad.send()), bad)


def test_a_body_over_the_limit_is_refused_by_torchserve(client: DigitsClient) -> None:
    with pytest.raises(RefusedError, match="413 Request Entity Too Large: the body is over the server's limit of 16"):
        client.predict(bytes(MAX_BYTES + 1))
    assert client.predict(SMOKE[7]).digit == 7


def test_a_body_of_the_limit_reaches_the_handler(client: DigitsClient) -> None:
    assert client.predict(SMOKE[7] + bytes(MAX_BYTES - len(SMOKE[7]))).digit == 7


def register(client: DigitsClient, version: str) -> None:
    query = {"url": f"digits-{version}.mar", "initial_workers": "1", "synchronous": "true"}
    response = client.request("management", "POST", "/models", params=query)
    assert response.status_code == 200, response.text


def test_two_versions_at_once_then_the_default_switches_and_the_old_one_goes(
    server: Config, client: DigitsClient
) -> None:
    for version in ("1.1", "1.2"):
        provide_archive(version, server.model_store)
        register(client, version)
    urls = {"": "1.0", "1.0": "1.0", "1.1": "1.1", "1.2": "1.2"}
    assert {url: client.predict(SMOKE[3], url).model_version for url in urls} == urls
    assert client.request("management", "PUT", "/models/digits/1.1/set-default").status_code == 200
    assert client.predict(SMOKE[3]).model_version == "1.1"
    assert client.request("management", "DELETE", "/models/digits/1.2").status_code == 200
    with pytest.raises(RefusedError, match="404 ModelVersionNotFoundException"):
        client.predict(SMOKE[3], "1.2")
    assert client.predict(SMOKE[3]).digit == 3
    assert client.request("management", "PUT", "/models/digits/1.0/set-default").status_code == 200
    assert client.request("management", "DELETE", "/models/digits/1.1").status_code == 200


MANAGEMENT: list[tuple[str, str, dict[str, str]]] = [
    ("POST", "/models", {"url": "digits-1.0.mar"}),
    ("GET", "/models/digits", {}),
    ("PUT", "/models/digits", {"min_worker": "3"}),
    ("PUT", "/models/digits/1.0/set-default", {}),
    ("DELETE", "/models/digits/1.0", {}),
]


@pytest.mark.parametrize("kind", ["none", "wrong", "inference"])
@pytest.mark.parametrize(("method", "path", "query"), MANAGEMENT)
def test_management_without_its_token_is_refused(
    method: str, path: str, query: dict[str, str], kind: str, client: DigitsClient
) -> None:
    response = client.request("management", method, path, params=query, headers=authorization(client, kind))
    assert (response.status_code, response.json()["type"]) == (400, "InvalidKeyException")
    assert client.predict(SMOKE[1]).model_version == "1.0"


@pytest.mark.parametrize("kind", ["none", "wrong", "management"])
def test_inference_without_its_token_is_refused(kind: str, client: DigitsClient) -> None:
    response = client.request("inference", "POST", PREDICT, data=SMOKE[1], headers=authorization(client, kind))
    assert (response.status_code, response.json()["type"]) == (400, "InvalidKeyException")


def authorization(client: DigitsClient, kind: str) -> dict[str, Any]:
    token = {"none": None, "wrong": "Bearer 00000000"}
    return {"Authorization": token[kind] if kind in token else f"Bearer {client.token(kind)}"}


def test_key_file_is_its_owners_alone(server: Config) -> None:
    assert server.key_file.stat().st_mode & 0o777 == 0o600


def test_no_token_is_in_a_log(server: Config, client: DigitsClient) -> None:
    client.predict(SMOKE[1])
    logs = [path.read_text(errors="replace") for path in (server.folder / "logs").rglob("*") if path.is_file()]
    assert logs
    assert not [kind for kind in TOKENS for log in logs if client.token(kind) in log]


def request_counts(server: Config) -> dict[str, float]:
    """Requests answered so far by version, as a Prometheus server would read them."""
    text = requests.get(server.url("metrics") + "/metrics", timeout=10).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    samples = families["ts_inference_requests"].samples
    return {each.labels["model_version"]: each.value for each in samples if each.labels["model_name"] == "digits"}


def test_metrics_are_prometheus_text_and_count_what_was_sent(server: Config, client: DigitsClient) -> None:
    before = request_counts(server)
    for _ in range(30):
        client.predict(SMOKE[5])
    for _ in range(12):
        client.predict(SMOKE[5], "1.0")
    with pytest.raises(RefusedError, match="no picture"):
        client.predict(b"no picture")
    after = request_counts(server)
    assert after["default"] - before.get("default", 0) == 31
    assert after["1.0"] - before.get("1.0", 0) - 12 in (0, 1)  # the supervisor's smoke picture may come in between


def test_the_door_says_live_ready_and_gives_metrics(server: Config) -> None:
    door = server.url("supervisor")
    answers = {path: requests.get(door + path, timeout=10) for path in ("/live", "/ready", "/metrics", "/other")}
    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/live": 200,
        "/ready": 200,
        "/metrics": 200,
        "/other": 404,
    }
    samples = [family.samples[0] for family in text_string_to_metric_families(answers["/metrics"].text)]
    assert {sample.name: sample.value for sample in samples}.items() >= {
        "digits_ready": 1.0,
        "digits_server_restarts_total": 0.0,
        "digits_token_rotations_total": 0.0,
    }.items()
