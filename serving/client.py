"""What the supervisor, the tests and the benchmarks ask of a running server."""

import json
from dataclasses import dataclass, field
from typing import Any

import requests

from serving.config import Config, ServingError

MODEL = "digits"
TOKENS = ("inference", "management", "API")
TIMEOUT = 10.0  # s, of one request


def _direct_session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy or a .netrc of the user's is not for a server on loopback
    return session


@dataclass
class Client:
    """One server's APIs, with its tokens; keeps its connections, so each thread needs its own."""

    config: Config
    timeout: float = TIMEOUT
    session: requests.Session = field(default_factory=_direct_session)

    def token(self, kind: str) -> str:
        """The token that is valid now; ServingError if the server has written none."""
        try:
            keys = json.loads(self.config.key_file.read_text())
            return str(next(value["key"] for name, value in keys.items() if name.lower() == kind.lower()))
        except FileNotFoundError as error:
            raise ServingError(f"{self.config.key_file}: no tokens; is the server running? `make serve`") from error
        except (ValueError, StopIteration) as error:
            raise ServingError(f"{self.config.key_file}: holds no {kind} token; expected one of {TOKENS}") from error

    def predict(self, picture: bytes, version: str = "") -> requests.Response:
        """The answer or refusal to a picture, by the default version unless one is named."""
        path = f"/predictions/{MODEL}" + (f"/{version}" if version else "")
        return self.inference("POST", path, data=picture)

    def workers(self) -> list[dict[str, Any]]:
        """The default version's workers as TorchServe lists them; raises requests.RequestException."""
        response = self.management("GET", f"/models/{MODEL}")
        response.raise_for_status()
        version = response.json()[0]
        return [worker | {"version": version["modelVersion"]} for worker in version["workers"]]

    def inference(self, method: str, path: str, **request: Any) -> requests.Response:
        return self._request("inference", method, path, **request)

    def management(self, method: str, path: str, **request: Any) -> requests.Response:
        return self._request("management", method, path, **request)

    def _request(self, api: str, method: str, path: str, **request: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token(api)}"} | request.pop("headers", {})
        return self.session.request(
            method, self.config.url(api) + path, headers=headers, timeout=self.timeout, **request
        )
