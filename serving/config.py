"""config.properties, the one place of addresses, as the supervisor and the client read it."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MODEL = "digits"
DEFAULT = ROOT / "config.properties"
TOKENS = ("inference", "management", "API")  # what each opens; API makes the others
DRAW_PATH = "/draw"  # of the supervisor's address
LOG_LEVELS = ("info", "warning", "error", "off")
_ADDRESSES = ("inference", "management", "metrics", "supervisor")
_WITH_TOKENS = ("inference", "management")
_TLS = ("certificate_file", "private_key_file")
_GRPC_PORTS = ("grpc_inference_port", "grpc_management_port")


class ServingError(UserError):
    """An error of serving that a person can mend; the message says how."""


@dataclass(frozen=True)
class Config:
    """The parsed file. What it names is relative to its folder; tokens, logs and state are there."""

    path: Path
    properties: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def key_file(self) -> Path:
        return self.folder / "key_file.json"

    @property
    def state_file(self) -> Path:
        """What is registered, promoted and scaled; written by the supervisor."""
        return self.folder / "served.json"

    @property
    def lock_file(self) -> Path:
        """Locked while a server runs here; names its processes."""
        return self.folder / ".serve.lock"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def worker_metrics(self) -> Path:
        """Folder of the files in which workers count."""
        return self.logs / "metrics"

    @property
    def request_log(self) -> Path:
        return self.logs / "requests.log"

    @property
    def request_log_level(self) -> str:
        """What is logged of requests: one of LOG_LEVELS."""
        return self.properties.get("request_log_level", LOG_LEVELS[0])

    @property
    def token_seconds(self) -> float:
        """How long a token of TorchServe's lasts; 60 minutes are its default."""
        return 60 * float(self.properties.get("token_expiration_min", 60))

    @property
    def max_body(self) -> int:
        """Of a request, in bytes; 6553500 are TorchServe's default."""
        return int(self.properties.get("max_request_size", 6553500))

    @property
    def model_store(self) -> Path:
        return self.folder / self.properties["model_store"]

    @property
    def certificate(self) -> Path | None:
        """What TLS shows, PEM; None without TLS."""
        return self.folder / self.properties[_TLS[0]] if _TLS[0] in self.properties else None

    def url(self, api: str) -> str:
        """The base URL of `inference`, `management`, `metrics` or `supervisor`; with TLS, https where tokens go."""
        address = self.properties[f"{api}_address"]
        is_tls = self.certificate is not None and api in _WITH_TOKENS
        return address.replace("http://", "https://", 1) if is_tls else address

    def ports(self) -> dict[str, tuple[str, int]]:
        """What will listen: name -> host and port."""
        http = {api: urlsplit(self.url(api)) for api in _ADDRESSES}
        grpc = {key.removesuffix("_port"): int(self.properties[key]) for key in _GRPC_PORTS}
        return {name: (url.hostname or "", url.port or 80) for name, url in http.items()} | {
            name: (self.properties[f"{name}_address"], port) for name, port in grpc.items()
        }


def read_config(path: Path = DEFAULT) -> Config:
    """Raises ServingError if the file is missing or lacks an address."""
    path = path.resolve()
    if not path.is_file():
        raise ServingError(f"{path}: no such file; expected TorchServe's configuration")
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    properties = {key.strip(): value.strip() for key, value in pairs}
    needed = [f"{api}_address" for api in _ADDRESSES] + [*_GRPC_PORTS, "model_store"]
    missing = [key for key in needed if key not in properties]
    if missing:
        raise ServingError(f"{path}: no line {missing[0]}=; see the project's own config.properties")
    config = Config(path, properties)
    _check_ports(config)
    _check_numbers(config)
    if config.request_log_level not in LOG_LEVELS:
        raise ServingError(f"{path}: request_log_level is {config.request_log_level}; expected {', '.join(LOG_LEVELS)}")
    given = [key for key in _TLS if key in properties]
    if len(given) == 1:
        raise ServingError(f"{path}: {given[0]} alone; expected {' and '.join(_TLS)}, as `make certs` prints them")
    return config


def _check_ports(config: Config) -> None:
    try:
        listed = config.ports()
    except ValueError as error:
        raise ServingError(f"{config.path}: {error}; expected addresses such as http://127.0.0.1:8080") from error
    for name, (host, port) in listed.items():
        if not host or not 0 < port < 65536:
            raise ServingError(f"{config.path}: {name} is {host}:{port}; expected a host and a port up to 65535")


def _check_numbers(config: Config) -> None:
    expected = {"token_expiration_min": "minutes, such as 1440", "max_request_size": "bytes, such as 16777216"}
    for key in expected.keys() & config.properties.keys():
        given = config.properties[key]
        if not re.fullmatch(r"[0-9]+" if key == "max_request_size" else r"[0-9]*\.?[0-9]+", given) or not float(given):
            raise ServingError(f"{config.path}: {key} is {given}; expected {expected[key]}")
