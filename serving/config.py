"""Read config.properties, where all addresses are, for the supervisor and the client."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import javaproperties

from common.errors import UserError
from digits_client.transport import Server

ROOT = Path(__file__).resolve().parents[1]
MODEL = "digits"
DEFAULT_PATH = ROOT / "config.properties"
FIRST_VERSION = "1.0"  # served where nothing has been served before
TOKEN_KINDS = ("inference", "management", "API")  # by the API that they open; an API token creates the others
DRAW_PATH = "/draw"  # path of the draw page at the supervisor's address
LOG_LEVELS = ("info", "warning", "error", "off")
_ADDRESSES = ("inference", "management", "metrics", "supervisor")
_TLS_ADDRESSES = ("inference", "management")
TLS_KEYS = ("certificate_file", "private_key_file")
_GRPC = ("grpc_inference", "grpc_management")
# TorchServe's defaults, and the supervisor's address.
_DEFAULTS = {
    **{f"{api}_address": f"http://127.0.0.1:{port}" for port, api in enumerate(_ADDRESSES, 8080)},
    **{f"{api}_address": "127.0.0.1" for api in _GRPC},
    **{f"{api}_port": str(port) for port, api in enumerate(_GRPC, 7070)},
    "model_store": "model_store",
}
_NUMBERS = {  # key -> minimum, and what is expected; needed to rotate tokens and to send probes
    "token_expiration_min": (1, "minutes, such as 1440"),
    "max_request_size": (2**16, "bytes, such as 16777216"),
    "max_response_size": (2**16, "bytes, such as 6553500"),
}
_ADDRESS = re.compile(r"https?://(\[[0-9A-Fa-f:.]+]|[^][:/\s]+):[0-9]+")


class ServingError(UserError):
    """A serving error that a person can fix; the message says how."""


@dataclass(frozen=True)
class Config:
    """The parsed file; certificates are relative to its folder. Large because every path and address is a property."""

    path: Path
    properties: dict[str, str]
    home: Path  # folder of all files written: DIGITS_HOME, or the folder of config.properties

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def key_file(self) -> Path:
        return self.home / "key_file.json"

    @property
    def state_file(self) -> Path:
        """File with the registered, promoted and scaled versions; the supervisor writes it."""
        return self.home / "served.json"

    @property
    def lock_file(self) -> Path:
        """File that is locked while a server runs here; it holds the process ids."""
        return self.home / ".serve.lock"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def worker_metrics(self) -> Path:
        """Folder of the files into which workers write their metrics."""
        return self.logs / "metrics"

    @property
    def request_log(self) -> Path:
        return self.logs / "requests.log"

    @property
    def request_log_level(self) -> str:
        """Level of the request log, one of LOG_LEVELS."""
        return self.properties.get("request_log_level", LOG_LEVELS[0])

    @property
    def token_seconds(self) -> float:
        """Lifetime of a token in seconds; TorchServe's default is one hour."""
        return 60 * float(self.properties.get("token_expiration_min", 60))

    @property
    def max_body(self) -> int:
        """Maximum size of a request body in bytes; TorchServe's default is 6553500."""
        return int(self.properties.get("max_request_size", 6553500))

    @property
    def model_store(self) -> Path:
        return self.home / self.properties["model_store"]

    @property
    def certificate(self) -> Path | None:
        """Path of the TLS certificate in PEM; None without TLS."""
        return self.folder / self.properties[TLS_KEYS[0]] if TLS_KEYS[0] in self.properties else None

    def get_url(self, api: str) -> str:
        """Return the base URL of `inference`, `management`, `metrics` or `supervisor`; https where TLS is on."""
        address = self.properties[f"{api}_address"]
        is_tls = self.certificate is not None and api in _TLS_ADDRESSES
        return address.replace("http://", "https://", 1) if is_tls else address

    def make_server(self, key_file: Path | None = None) -> Server:
        """Return the addresses for clients on this machine."""
        urls = {api: self.get_url(api) for api in _ADDRESSES}
        return Server(**urls, key_file=str(key_file or self.key_file), certificate=str(self.certificate or ""))

    def get_ports(self) -> dict[str, tuple[str, int]]:
        """Return the host and port of every listener by name."""
        http = {api: urlsplit(self.get_url(api)) for api in _ADDRESSES}
        return {name: (url.hostname or "", url.port or 0) for name, url in http.items()} | {
            name: (self.properties[f"{name}_address"].strip("[]"), int(self.properties[f"{name}_port"]))
            for name in _GRPC
        }


def read_config(path: Path = DEFAULT_PATH) -> Config:
    """Read the file as Java reads properties; ServingError for an invalid value."""
    path = path.resolve()
    home = Path(os.environ.get("DIGITS_HOME") or path.parent).absolute()
    config = Config(path, _DEFAULTS | _read_properties(path), home)
    _check_ports(config)
    _check_numbers(config)
    if config.request_log_level not in LOG_LEVELS:
        raise ServingError(f"{path}: request_log_level is {config.request_log_level}; expected {', '.join(LOG_LEVELS)}")
    found = [key for key in TLS_KEYS if key in config.properties]
    if len(found) == 1:
        raise ServingError(f"{path}: {found[0]} alone; expected {' and '.join(TLS_KEYS)}, as `make certs` prints them")
    return config


def _read_properties(path: Path) -> dict[str, str]:
    """Read UTF-8, else Latin-1, as Java's resource bundles do; trailing blanks of a value are dropped."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ServingError(f"{path}: {error.strerror}; expected TorchServe's configuration") from error
    if b"\0" in content:
        raise ServingError(f"{path}: is not text in UTF-8 or Latin-1; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    try:
        properties = {key: value.strip() for key, value in javaproperties.loads(text).items()}
    except ValueError as error:
        raise ServingError(f"{path}: {error}; expected the format of Java properties") from error
    for key in [key for key, value in properties.items() if not value]:
        raise ServingError(f"{path}: {key} has no value; give it one, or remove the line")
    return properties


def _check_ports(config: Config) -> None:
    for key in [f"{api}_address" for api in _ADDRESSES]:
        if not _ADDRESS.fullmatch(config.properties[key]):
            expected = f"host and port, such as {_DEFAULTS[key]}"
            raise ServingError(f"{config.path}: {key} is {config.properties[key]}; expected {expected}")
    for key in [f"{api}_port" for api in _GRPC]:
        if not re.fullmatch("[0-9]+", config.properties[key]):
            raise ServingError(f"{config.path}: {key} is {config.properties[key]}; expected e.g. {_DEFAULTS[key]}")
    try:
        ports = config.get_ports()
    except ValueError as error:
        raise ServingError(f"{config.path}: {error}; expected addresses such as http://127.0.0.1:8080") from error
    for name, (host, port) in ports.items():
        if not 0 < port < 65536:
            raise ServingError(f"{config.path}: {name} is {host}:{port}; expected a port from 1 to 65535")


def _check_numbers(config: Config) -> None:
    for key, (minimum, expected) in _NUMBERS.items():
        text = config.properties.get(key, str(minimum))
        pattern = r"[0-9]*\.?[0-9]+" if key == "token_expiration_min" else r"[0-9]+"
        if not re.fullmatch(pattern, text) or float(text) < minimum:
            raise ServingError(f"{config.path}: {key} is {text}; expected {expected}, at least {minimum}")
