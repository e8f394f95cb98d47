"""docs/openapi.yaml agrees with the code's schemas, the configuration and the running server.

Schemathesis generates requests from the document, sends them and checks the responses against it.
"""

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis

import handler
from handler.decoding import MAX_BYTES
from handler.protocol import MAX_INSTANCES, MAX_NUMBER_DIGITS, WARNINGS
from serving.archive import build_archive
from serving.config import Config
from serving.local_management import LocalManagementClient
from tests.archives import copy_project
from tests.images import SMOKE
from tests.openapi import (
    ABSENT,
    ADDRESSES,
    CHANGED,
    DOCUMENT,
    FORM,
    JSON,
    SCHEMA,
    SECURED,
    Service,
    list_apis,
    list_secured_operations,
)


@pytest.fixture(scope="module")
def service(server: Config) -> Iterator[Service]:
    """The server of the session; these tests must leave its versions as they were."""
    before = list_registered(server)
    with requests.Session() as session:
        session.trust_env = False
        session.headers.clear()  # its Accept would replace the request's
        yield Service(server, session)
    assert list_registered(server) == before


def list_registered(server: Config) -> dict[str, Any]:
    with LocalManagementClient(server) as client:
        versions = {name: (item.archive, item.ready, item.max_workers) for name, item in client.list_versions().items()}
        return versions | {"default": client.get_default().version}


def test_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    SCHEMA.validate()


def test_warnings_and_limits_of_batch_requests_and_numbers_are_the_handlers() -> None:
    properties = {name: schema.get("properties") for name, schema in DOCUMENT["components"]["schemas"].items()}
    assert properties["Prediction"]["warnings"]["items"]["enum"] == list(WARNINGS)
    assert properties["Number"]["warnings"]["items"]["enum"] == list(WARNINGS)
    assert properties["Number"]["digits"]["maxItems"] == MAX_NUMBER_DIGITS
    assert properties["Instances"]["instances"]["maxItems"] == MAX_INSTANCES
    assert properties["Predictions"]["predictions"]["maxItems"] == MAX_INSTANCES


def test_addresses_and_version_are_the_projects() -> None:
    assert {server["url"] for item in DOCUMENT["paths"].values() for server in item["servers"]} == set(ADDRESSES)
    assert DOCUMENT["info"]["version"] == handler.__version__


def find_examples(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the bodies and parameters that have both a schema and examples."""
    if isinstance(node, dict) and "schema" in node and node.keys() & {"example", "examples"}:
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from find_examples(child)


def test_every_example_is_valid_for_its_schema() -> None:
    found = list(find_examples(DOCUMENT))
    assert found
    for node in found:
        schema = {"components": DOCUMENT["components"], "allOf": [node["schema"]]}  # so that its $refs resolve
        examples = [named["value"] for named in node.get("examples", {}).values()] or [node["example"]]
        for example in examples:
            jsonschema_rs.validate(schema, example)


@SCHEMA.exclude(operation_id="scaleDefault").parametrize()  # it would start as many workers as are generated
def test_generated_requests_get_documented_responses(case: schemathesis.Case[Any], service: Service) -> None:
    for api in list_apis(case.path):
        service.send(make_harmless(case) if api == "management" else case, api)


def make_harmless(case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """Let requests that would change versions name an absent one; another test makes the changes."""
    if case.method in ("POST", "PUT", "DELETE"):
        if "version" in case.path_parameters:
            case.path_parameters["version"] = ABSENT
        if "url" in case.query:
            case.query["url"] = f"digits-{ABSENT}.mar"
    return case


IMAGES: dict[str, dict[str, Any]] = {
    "bytes": {"body": SMOKE[7], "media_type": "application/octet-stream"},
    "image": {"body": SMOKE[7], "media_type": "image/*"},
    "form": {"body": {"data": SMOKE[7]}, "media_type": FORM},
}
TARGETS: dict[str, dict[str, Any]] = {
    "header": IMAGES["bytes"] | {"headers": {"X-Target": "3"}},
    "field": {"body": {"data": SMOKE[7], "target": 3}, "media_type": FORM},
}
INSTANCES = {"instances": [{"b64": b64encode(SMOKE[digit]).decode()} for digit in (7, 3)]}
BATCH = {"body": INSTANCES, "media_type": JSON}
TEXT = {"headers": {"Accept": "text/plain"}}
READ = {"headers": {"X-Digits-Read": "number"}}


def with_version(path: str, request: dict[str, Any]) -> dict[str, Any]:
    return request | {"path_parameters": {"version": "1.0"}} if "{version}" in path else request


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/predictions/digits", "/predictions/digits/{version}"])
def test_every_documented_form_of_an_image_is_predicted(path: str, method: str, service: Service) -> None:
    def predict(request: dict[str, Any]) -> Any:
        return service.call(method, path, 200, **with_version(path, request))

    assert [predict(image)["digit"] for image in IMAGES.values()] == [7, 7, 7]
    assert [prediction["digit"] for prediction in predict(BATCH)["predictions"]] == [7, 3]
    assert predict(IMAGES["bytes"] | TEXT) == "7"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/predictions/digits", "/predictions/digits/{version}"])
def test_every_documented_form_of_a_number_is_read(path: str, method: str, service: Service) -> None:
    def read(request: dict[str, Any], status: int = 200) -> Any:
        return service.call(method, path, status, **with_version(path, request))

    batch: dict[str, Any] = BATCH | {"body": {**INSTANCES, "read": "number"}}
    assert [read(image | READ)["number"] for image in IMAGES.values()] == ["7"] * 3
    assert [number["number"] for number in read(batch)["predictions"]] == ["7", "3"]
    assert read(IMAGES["bytes"] | {"headers": READ["headers"] | TEXT["headers"]}) == "7"
    for invalid in (IMAGES["bytes"] | {"headers": {"X-Digits-Read": "digits"}}, BATCH | READ):
        assert read(invalid, 400)["type"] == "InvalidRequest"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/explanations/digits", "/explanations/digits/{version}"])
def test_every_documented_form_of_an_image_is_explained(path: str, method: str, service: Service) -> None:
    def get_target(request: dict[str, Any]) -> Any:
        return service.call(method, path, 200, **with_version(path, request))["target"]

    assert [get_target(image) for image in IMAGES.values()] == [7, 7, 7]
    assert [get_target(image) for image in TARGETS.values()] == [3, 3]
    for invalid in ("10", "x", "-1", "3.5", "null"):
        request = with_version(path, IMAGES["bytes"] | {"headers": {"X-Target": invalid}})
        assert service.call(method, path, 400, **request)["type"] == "InvalidRequest"


@pytest.mark.parametrize("path", ["/predictions/digits", "/explanations/digits"])
def test_body_over_the_limit_gets_the_only_response_without_a_body(path: str, service: Service) -> None:
    too_large = {"body": bytes(MAX_BYTES + 1), "media_type": "application/octet-stream"}
    # OpenAPI cannot express "JSON or nothing": a response without a body has no Content-Type and no JSON.
    excluded = ("content_type_conformance", "response_schema_conformance")
    assert service.call("POST", path, 413, excluded, **too_large) == ""


@pytest.mark.parametrize("token", ["none", "of the other kind"])
@pytest.mark.parametrize("operation", list_secured_operations(), ids=lambda operation: operation.label)
def test_operation_without_its_token_is_the_documented_error(operation: Any, token: str, service: Service) -> None:
    [api] = list_apis(operation.path)
    kind = {"none": token, "of the other kind": next(other for other in SECURED if other != api)}[token]
    case = operation.Case(path_parameters={"version": ABSENT}, query={"url": f"digits-{ABSENT}.mar"})
    response = service.send(case, api, token=kind)
    assert (response.status_code, response.json()["type"]) == (400, "InvalidKeyException")


@pytest.fixture
def changed_version(server: Config, tmp_path: Path) -> Iterator[str]:
    """A version with one worker, in the store; afterwards it is unregistered and 1.0 is the default."""
    project = copy_project(tmp_path)
    (project / "handler" / "model-config.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\n")
    build_archive(CHANGED, server.model_store, project)
    yield CHANGED
    with LocalManagementClient(server) as client:
        client.api.request("PUT", "/models/digits/1.0/set-default")
        client.api.request("DELETE", f"/models/digits/{CHANGED}")


ONE: dict[str, Any] = {"min_worker": 1, "max_worker": 1, "synchronous": "true"}


def test_every_documented_change_of_versions_gets_its_response(changed_version: str, service: Service) -> None:
    """Registers, scales, promotes and unregisters a version."""
    version, archive = {"version": changed_version}, {"url": f"digits-{changed_version}.mar"}
    one = "/models/digits/{version}"
    default = f"{one}/set-default"

    service.call("POST", "/models", 400)
    service.call("POST", "/models", 404, query={"url": f"digits-{ABSENT}.mar"})
    service.call("POST", "/models", 200, query=archive)
    service.call("POST", "/models", 409, query=archive)
    assert len(service.call("GET", "/models/digits/all", 200)) == 2
    [description] = service.call("GET", one, 200, path_parameters=version, query={"customized": "true"})
    assert description["customizedMetadata"]["version"] == changed_version

    service.call("PUT", one, 400, path_parameters=version, query={"min_worker": 2, "max_worker": 1})
    service.call("PUT", one, 202, path_parameters=version, query={"min_worker": 0})
    service.call("PUT", one, 200, path_parameters=version, query={"min_worker": 0, "synchronous": "true"})
    service.call("POST", "/predictions/digits/{version}", 503, path_parameters=version, **IMAGES["bytes"])
    service.call("GET", one, 503, path_parameters=version, query={"customized": "true"})
    service.call("PUT", one, 200, path_parameters=version, query=ONE)

    service.call("PUT", default, 404, path_parameters={"version": ABSENT})
    service.call("PUT", default, 200, path_parameters=version)
    service.call("PUT", "/models/digits", 200, query=ONE)
    service.call("PUT", "/models/digits", 202, query=ONE | {"synchronous": "false"})
    service.call("DELETE", one, 403, path_parameters=version)
    service.call("PUT", default, 200, path_parameters={"version": "1.0"})
    service.call("DELETE", one, 200, path_parameters=version)
    service.call("DELETE", one, 404, path_parameters=version)
