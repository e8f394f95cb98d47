"""docs/openapi.yaml as Schemathesis reads it, and a running server that is held against it."""

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
OWN = "7.0"  # a version for the calls that change something
ABSENT = "0.0-absent"  # a version that there never is

OFF = {"enabled": False}
# Checks that do not hold, whatever the document says, each where it does not.
LEFT_OUT: list[dict[str, Any]] = [
    # TorchServe 0.12.0 answers 400 without the right token, not 401; this has a test of its own.
    {"include-tag": ["inference", "management"], "checks": {"ignored_auth": OFF}},
    # It takes methods it does not know for POST or GET, or refuses them with a 405 that lacks the header Allow.
    {"include-path-regex": "^/(predictions|explanations|ping|models|metrics)", "checks": {"unsupported_method": OFF}},
    # Which bytes are a picture, no schema can tell; nor that max_worker is no less than min_worker.
    {"include-path-regex": "^/(predictions|explanations)", "checks": {"positive_data_acceptance": OFF}},
    {"include-operation-id": "scaleVersion", "checks": {"positive_data_acceptance": OFF}},
    # What is wrong in JSON with many pictures is refused in place, within a 200, and headers are passed over that are
    # unknown or name no answer; an X-Target that is no digit has a test of its own.
    {"include-path-regex": "^/(predictions|explanations)", "checks": {"negative_data_rejection": OFF}},
    # Parameters that TorchServe does not understand have their default.
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
            "operations": LEFT_OUT,
        }
    ),
)
for media_type in ("application/octet-stream", "image/*"):
    schemathesis.openapi.media_type(media_type, strategies.sampled_from(list(SMOKE.values())) | strategies.binary())


@schemathesis.deserializer("text/plain")
def text(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> str:
    """Has text held against its schema as well."""
    return response.text


FORM = "multipart/form-data"
JSON = "application/json"


@dataclass(frozen=True)
class Service:
    """The running server, at its own ports."""

    config: Config
    session: requests.Session

    def send(
        self, case: schemathesis.Case[Any], api: str, left_out: tuple[str, ...] = (), token: str = ""
    ) -> schemathesis.Response:
        """The answer, if it is one that the document has for the request; with the API's own token or another."""
        kind = token or api
        headers = {"Authorization": f"Bearer {read_token(self.config.key_file, kind)}"} if kind in SECURED else {}
        response = case.call(self.config.get_url(api), self.session, headers)
        if is_form_error(case, response):
            left_out += ("not_a_server_error",)
        case.validate_response(response, excluded_checks=checks(left_out))
        return response

    def ask(self, method: str, path: str, status: int, left_out: tuple[str, ...] = (), **request: Any) -> Any:
        """What the answer of this status says, if it is as the document has it for this status."""
        case = SCHEMA[path][method].Case(**request)
        if status >= 500:
            left_out += ("not_a_server_error",)
        response = self.send(case, apis(path)[0], left_out)
        assert response.status_code == status, response.text
        return response.json() if response.content and "json" in response.headers["content-type"][0] else response.text


def checks(names: tuple[str, ...]) -> list[Any]:
    load_all_checks()
    return [CHECKS.get_one(name) for name in names]


def is_form_error(case: schemathesis.Case[Any], response: schemathesis.Response) -> bool:
    """Whether TorchServe's parser of forms, before any code of ours, failed: at a field with an empty name, say."""
    return case.media_type == FORM and response.status_code == 500 and "ErrorDataDecoderException" in response.text


def apis(path: str) -> list[str]:
    """Whose the path is; /metrics is of two."""
    return [ADDRESSES[server["url"]] for server in DOCUMENT["paths"][path]["servers"]]


def secured() -> list[Any]:
    """The operations that need a token."""
    paths = [path for path in DOCUMENT["paths"] if apis(path)[0] in SECURED]
    return [SCHEMA[path][method] for path in paths for method in METHODS if method in item(path)]


def item(path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path]
    return found
