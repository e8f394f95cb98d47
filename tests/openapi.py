"""docs/openapi.yaml as Schemathesis reads it, and a running server that is checked against it."""

from dataclasses import dataclass
from typing import Any

import requests
import schemathesis
import yaml
from hypothesis import strategies
from schemathesis.checks import CHECKS, load_all_checks

from digits_client.transport import read_token
from serving.config import ROOT, Config, read_config
from tests.images import SMOKE

PATH = ROOT / "docs" / "openapi.yaml"
DOCUMENT = yaml.safe_load(PATH.read_text())
METHODS = ("get", "put", "post", "delete")
APIS = ("inference", "management", "metrics", "supervisor")
ADDRESSES = {read_config().get_url(api): api for api in APIS}
SECURED = ("inference", "management")
CHANGED = "7.0"  # the version that calls may change
ABSENT = "0.0-absent"  # a version that never exists

OFF = {"enabled": False}
# Checks that fail whatever the document says, with the operations where they fail.
EXCLUDED: list[dict[str, Any]] = [
    # TorchServe 0.12.0 responds with 400, not 401, without the right token; another test checks this.
    {"include-tag": ["inference", "management"], "checks": {"ignored_auth": OFF}},
    # It takes unknown methods for POST or GET, or responds with a 405 that lacks the header Allow.
    {"include-path-regex": "^/(predictions|explanations|ping|models|metrics)", "checks": {"unsupported_method": OFF}},
    # A schema cannot express which bytes are an image, nor that max_worker is at least min_worker.
    {"include-path-regex": "^/(predictions|explanations)", "checks": {"positive_data_acceptance": OFF}},
    {"include-operation-id": "scaleVersion", "checks": {"positive_data_acceptance": OFF}},
    # In a batch request, an invalid image is an error within a 200; unknown headers are ignored. Another test checks
    # an invalid X-Target.
    {"include-path-regex": "^/(predictions|explanations)", "checks": {"negative_data_rejection": OFF}},
    # TorchServe replaces invalid parameters by their defaults.
    {"include-path-regex": "^/models", "include-method": "GET", "checks": {"negative_data_rejection": OFF}},
]
SCHEMA = schemathesis.openapi.from_path(
    PATH,
    config=schemathesis.Config.from_dict(
        {
            "seed": 0,
            "request-timeout": 60,  # s; a busy machine's workers start slowly
            "generation": {"max-examples": 15, "database": "none", "with-security-parameters": False},
            # An unexpected POST, PUT or DELETE would do something: TorchServe takes `DELETE /models/digits`.
            "phases": {"coverage": {"unexpected-methods": ["get", "options", "patch", "trace", "query"]}},
            "operations": EXCLUDED,
        }
    ),
)
for media_type in ("application/octet-stream", "image/*"):
    schemathesis.openapi.media_type(media_type, strategies.sampled_from(list(SMOKE.values())) | strategies.binary())


@schemathesis.deserializer("text/plain")
def decode_text(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> str:
    """Return the text, so that it is checked against its schema too."""
    return response.text


FORM = "multipart/form-data"
JSON = "application/json"


@dataclass(frozen=True)
class Service:
    """The running server; checks its responses against the document."""

    config: Config
    session: requests.Session

    def send(
        self, case: schemathesis.Case[Any], api: str, excluded: tuple[str, ...] = (), token: str = ""
    ) -> schemathesis.Response:
        """Return the response after checking it against the document; `token` replaces the API's own kind of token."""
        kind = token or api
        headers = {"Authorization": f"Bearer {read_token(self.config.key_file, kind)}"} if kind in SECURED else {}
        response = case.call(self.config.get_url(api), self.session, headers)
        if is_form_error(case, response):
            excluded += ("not_a_server_error",)
        case.validate_response(response, excluded_checks=get_checks(excluded))
        return response

    def call(self, method: str, path: str, status: int, excluded: tuple[str, ...] = (), **request: Any) -> Any:
        """Return the body of a response with this status, after checking it against the document."""
        case = SCHEMA[path][method].Case(**request)
        if status >= 500:
            excluded += ("not_a_server_error",)
        response = self.send(case, list_apis(path)[0], excluded)
        assert response.status_code == status, response.text
        return response.json() if response.content and "json" in response.headers["content-type"][0] else response.text


def get_checks(names: tuple[str, ...]) -> list[Any]:
    load_all_checks()
    return [CHECKS.get_one(name) for name in names]


def is_form_error(case: schemathesis.Case[Any], response: schemathesis.Response) -> bool:
    """Return whether TorchServe's form parser failed, for example at a field with an empty name."""
    return case.media_type == FORM and response.status_code == 500 and "ErrorDataDecoderException" in response.text


def list_apis(path: str) -> list[str]:
    """Return the APIs that have the path; /metrics is in two."""
    return [ADDRESSES[server["url"]] for server in DOCUMENT["paths"][path]["servers"]]


def list_secured_operations() -> list[Any]:
    """Return the operations that need a token."""
    paths = [path for path in DOCUMENT["paths"] if list_apis(path)[0] in SECURED]
    return [SCHEMA[path][method] for path in paths for method in METHODS if method in get_path_item(path)]


def get_path_item(path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path]
    return found
