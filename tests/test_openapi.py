"""docs/openapi.yaml against what it describes: the code's schemas, the configuration, the running server.

Schemathesis makes requests from the document, sends them and holds the answers against it.
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
from handler.protocol import MAX_INSTANCES, WARNINGS
from serving.archive import build_archive
from serving.config import Config
from serving.local_management import LocalManagementClient
from tests.archives import copy_project
from tests.images import SMOKE
from tests.openapi import (
    ABSENT,
    ADDRESSES,
    DOCUMENT,
    FORM,
    JSON,
    OWN,
    SCHEMA,
    SECURED,
    Service,
    apis,
    secured,
)


@pytest.fixture(scope="module")
def service(server: Config) -> Iterator[Service]:
    """The server of the session; what is asked of it here changes nothing that stays."""
    before = registered(server)
    with requests.Session() as session:
        session.trust_env = False
        session.headers.clear()  # its Accept would take the place of a request's own
        yield Service(server, session)
    assert registered(server) == before


def registered(server: Config) -> dict[str, Any]:
    with LocalManagementClient(server) as client:
        versions = {name: (each.archive, each.ready, each.max_workers) for name, each in client.list_versions().items()}
        return versions | {"default": client.get_default().version}


def test_document_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    SCHEMA.validate()


def test_warnings_and_the_limit_of_a_batch_request_are_the_handlers() -> None:
    properties = {name: each.get("properties") for name, each in DOCUMENT["components"]["schemas"].items()}
    assert properties["Prediction"]["warnings"]["items"]["enum"] == list(WARNINGS)
    assert properties["Instances"]["instances"]["maxItems"] == MAX_INSTANCES
    assert properties["Predictions"]["predictions"]["maxItems"] == MAX_INSTANCES


def test_addresses_and_version_are_the_projects() -> None:
    assert {server["url"] for item in DOCUMENT["paths"].values() for server in item["servers"]} == set(ADDRESSES)
    assert DOCUMENT["info"]["version"] == handler.__version__


def media(of: Any) -> Iterator[dict[str, Any]]:
    """Whatever has both a schema and examples: bodies, parameters."""
    if isinstance(of, dict) and "schema" in of and of.keys() & {"example", "examples"}:
        yield of
    for each in of.values() if isinstance(of, dict) else of if isinstance(of, list) else ():
        yield from media(each)


def test_every_example_is_of_its_schema() -> None:
    found = list(media(DOCUMENT))
    assert found
    for each in found:
        schema = {"components": DOCUMENT["components"], "allOf": [each["schema"]]}  # so that its $refs lead somewhere
        examples = [named["value"] for named in each.get("examples", {}).values()] or [each["example"]]
        for example in examples:
            jsonschema_rs.validate(schema, example)


@SCHEMA.exclude(operation_id="scaleDefault").parametrize()  # it would start as many workers as are generated
def test_generated_requests_get_the_answers_of_the_document(case: schemathesis.Case[Any], service: Service) -> None:
    for api in apis(case.path):
        service.send(harmless(case) if api == "management" else case, api)


def harmless(case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """What would change something is aimed at what does not exist; each change is asked for in a test of its own."""
    if case.method in ("POST", "PUT", "DELETE"):
        if "version" in case.path_parameters:
            case.path_parameters["version"] = ABSENT
        if "url" in case.query:
            case.query["url"] = f"digits-{ABSENT}.mar"
    return case


PICTURES: dict[str, dict[str, Any]] = {
    "bytes": {"body": SMOKE[7], "media_type": "application/octet-stream"},
    "image": {"body": SMOKE[7], "media_type": "image/*"},
    "form": {"body": {"data": SMOKE[7]}, "media_type": FORM},
}
TARGETS: dict[str, dict[str, Any]] = {
    "header": PICTURES["bytes"] | {"headers": {"X-Target": "3"}},
    "field": {"body": {"data": SMOKE[7], "target": 3}, "media_type": FORM},
}
BULK = {"body": {"instances": [{"b64": b64encode(SMOKE[digit]).decode()} for digit in (7, 3)]}, "media_type": JSON}
TEXT = {"headers": {"Accept": "text/plain"}}


def with_version(path: str, request: dict[str, Any]) -> dict[str, Any]:
    return request | {"path_parameters": {"version": "1.0"}} if "{version}" in path else request


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/predictions/digits", "/predictions/digits/{version}"])
def test_every_documented_way_in_is_answered(path: str, method: str, service: Service) -> None:
    def ask(request: dict[str, Any]) -> Any:
        return service.ask(method, path, 200, **with_version(path, request))

    assert [ask(picture)["digit"] for picture in PICTURES.values()] == [7, 7, 7]
    assert [each["digit"] for each in ask(BULK)["predictions"]] == [7, 3]
    assert ask(PICTURES["bytes"] | TEXT) == "7"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/explanations/digits", "/explanations/digits/{version}"])
def test_every_documented_way_to_a_reason_is_answered(path: str, method: str, service: Service) -> None:
    def target(request: dict[str, Any]) -> Any:
        return service.ask(method, path, 200, **with_version(path, request))["target"]

    assert [target(picture) for picture in PICTURES.values()] == [7, 7, 7]
    assert [target(picture) for picture in TARGETS.values()] == [3, 3]
    for none in ("10", "x", "-1", "3.5", "null"):
        asked = with_version(path, PICTURES["bytes"] | {"headers": {"X-Target": none}})
        assert service.ask(method, path, 400, **asked)["type"] == "InvalidRequest"


@pytest.mark.parametrize("path", ["/predictions/digits", "/explanations/digits"])
def test_a_body_over_the_limit_has_the_one_answer_without_a_body(path: str, service: Service) -> None:
    too_large = {"body": bytes(MAX_BYTES + 1), "media_type": "application/octet-stream"}
    # OpenAPI cannot say "JSON or nothing": an answer without a body has no Content-Type, and its body is no JSON.
    left_out = ("content_type_conformance", "response_schema_conformance")
    assert service.ask("POST", path, 413, left_out, **too_large) == ""


@pytest.mark.parametrize("token", ["none", "of the other kind"])
@pytest.mark.parametrize("operation", secured(), ids=lambda operation: operation.label)
def test_without_its_token_an_operation_is_refused_as_documented(operation: Any, token: str, service: Service) -> None:
    [api] = apis(operation.path)
    kind = {"none": token, "of the other kind": next(each for each in SECURED if each != api)}[token]
    case = operation.Case(path_parameters={"version": ABSENT}, query={"url": f"digits-{ABSENT}.mar"})
    response = service.send(case, api, token=kind)
    assert (response.status_code, response.json()["type"]) == (400, "InvalidKeyException")


@pytest.fixture
def built(server: Config, tmp_path: Path) -> Iterator[str]:
    """An archive in the store, of a version with one worker; whatever becomes of it, 1.0 is the default afterwards."""
    project = copy_project(tmp_path)
    (project / "handler" / "model-config.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\n")
    build_archive(OWN, server.model_store, project)
    yield OWN
    with LocalManagementClient(server) as client:
        client.api.request("PUT", "/models/digits/1.0/set-default")
        client.api.request("DELETE", f"/models/digits/{OWN}")


ONE: dict[str, Any] = {"min_worker": 1, "max_worker": 1, "synchronous": "true"}


def test_every_documented_change_of_versions_is_answered(built: str, service: Service) -> None:
    """Registers, scales, promotes and removes a version built for it."""
    version, archive = {"version": built}, {"url": f"digits-{built}.mar"}
    one = "/models/digits/{version}"
    default = f"{one}/set-default"

    service.ask("POST", "/models", 400)
    service.ask("POST", "/models", 404, query={"url": f"digits-{ABSENT}.mar"})
    service.ask("POST", "/models", 200, query=archive)
    service.ask("POST", "/models", 409, query=archive)
    assert len(service.ask("GET", "/models/digits/all", 200)) == 2
    [told] = service.ask("GET", one, 200, path_parameters=version, query={"customized": "true"})
    assert told["customizedMetadata"]["version"] == built

    service.ask("PUT", one, 400, path_parameters=version, query={"min_worker": 2, "max_worker": 1})
    service.ask("PUT", one, 202, path_parameters=version, query={"min_worker": 0})
    service.ask("PUT", one, 200, path_parameters=version, query={"min_worker": 0, "synchronous": "true"})
    service.ask("POST", "/predictions/digits/{version}", 503, path_parameters=version, **PICTURES["bytes"])
    service.ask("GET", one, 503, path_parameters=version, query={"customized": "true"})
    service.ask("PUT", one, 200, path_parameters=version, query=ONE)

    service.ask("PUT", default, 404, path_parameters={"version": ABSENT})
    service.ask("PUT", default, 200, path_parameters=version)
    service.ask("PUT", "/models/digits", 200, query=ONE)
    service.ask("PUT", "/models/digits", 202, query=ONE | {"synchronous": "false"})
    service.ask("DELETE", one, 403, path_parameters=version)
    service.ask("PUT", default, 200, path_parameters={"version": "1.0"})
    service.ask("DELETE", one, 200, path_parameters=version)
    service.ask("DELETE", one, 404, path_parameters=version)
