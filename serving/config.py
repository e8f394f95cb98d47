"""config.properties, the one place of addresses, as the supervisor and the client read it."""

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
TOKEN_KINDS = ("inference", "management", "API")  # by what they open; API makes the others
DRAW_PATH = "/draw"  # of the supervisor's address
LOG_LEVELS = ("info", "warning", "error", "off")
_ADDRESSES = ("inference", "management", "metrics", "supervisor")
_TLS_ADDRESSES = ("inference", "management")
_TLS_KEYS = ("certificate_file", "private_key_file")
_GRPC = ("grpc_inference", "grpc_management")
# TorchServe's own, and the supervisor's address.
_DEFAULTS = {
    **{f"{api}_address": f"http://127.0.0.1:{port}" for port, api in enumerate(_ADDRESSES, 8080)},
    **{f"{api}_address": "127.0.0.1" for api in _GRPC},
    **{f"{api}_port": str(port) for port, api in enumerate(_GRPC, 7070)},
    "model_store": "model_store",
}
_NUMBERS = {  # what the supervisor needs to renew tokens, and to send a probe
    "token_expiration_min": (1, "minutes, such as 1440"),
    "max_request_size": (2**16, "bytes, such as 16777216"),
    "max_response_size": (2**16, "bytes, such as 6553500"),
}
_ADDRESS = re.compile(r"https?://(\[[0-9A-Fa-f:.]+]|[^][:/\s]+):[0-9]+")


class ServingError(UserError):
    """An error of serving that a person can mend; the message says how."""


@dataclass(frozen=True)
class Config:
    """The parsed file. Certificates are relative to its folder; tokens, logs, state and archives to `home`.

    Large because every place and address is a property.
    """

    path: Path
    properties: dict[str, str]
    home: Path  # folder of all that is written: DIGITS_HOME, or that of the file

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def key_file(self) -> Path:
        return self.home / "key_file.json"

    @property
    def state_file(self) -> Path:
        """File of what is registered, promoted and scaled; written by the supervisor."""
        return self.home / "served.json"

    @property
    def lock_file(self) -> Path:
        """File that is locked while a server runs here; names its processes."""
        return self.home / ".serve.lock"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def worker_metrics(self) -> Path:
        """Folder of the files in which workers count."""
        return self.logs / "metrics"

    @property
    def request_log(self) -> Path:
        return self.logs / "requests.log"

    @property
    def request_log_level(self) -> str:
        """Which requests are logged: one of LOG_LEVELS."""
        return self.properties.get("request_log_level", LOG_LEVELS[0])

    @property
    def token_seconds(self) -> float:
        """Lifetime of a token; 60 minutes are TorchServe's default."""
        return 60 * float(self.properties.get("token_expiration_min", 60))

    @property
    def max_body(self) -> int:
        """Size of a request, in bytes; 6553500 are TorchServe's default."""
        return int(self.properties.get("max_request_size", 6553500))

    @property
    def model_store(self) -> Path:
        return self.home / self.properties["model_store"]

    @property
    def certificate(self) -> Path | None:
        """Certificate for TLS, PEM; None without TLS."""
        return self.folder / self.properties[_TLS_KEYS[0]] if _TLS_KEYS[0] in self.properties else None

    def get_url(self, api: str) -> str:
        """Return the base URL of `inference`, `management`, `metrics` or `supervisor`; https if TLS guards tokens."""
        address = self.properties[f"{api}_address"]
        is_tls = self.certificate is not None and api in _TLS_ADDRESSES
        return address.replace("http://", "https://", 1) if is_tls else address

    def make_server(self, key_file: Path | None = None) -> Server:
        """Return the addresses for clients on this machine."""
        urls = {api: self.get_url(api) for api in _ADDRESSES}
        return Server(**urls, key_file=str(key_file or self.key_file), certificate=str(self.certificate or ""))

    def get_ports(self) -> dict[str, tuple[str, int]]:
        """Return what will listen: name -> host and port."""
        http = {api: urlsplit(self.get_url(api)) for api in _ADDRESSES}
        return {name: (url.hostname or "", url.port or 0) for name, url in http.items()} | {
            name: (self.properties[f"{name}_address"].strip("[]"), int(self.properties[f"{name}_port"]))
            for name in _GRPC
        }


def read_config(path: Path = DEFAULT_PATH) -> Config:
    """Read the file as Java reads properties; ServingError for a value that cannot be right."""
    path = path.resolve()
    home = Path(os.environ.get("DIGITS_HOME") or path.parent).absolute()
    config = Config(path, _DEFAULTS | _read_properties(path), home)
    _check_ports(config)
    _check_numbers(config)
    if config.request_log_level not in LOG_LEVELS:
        raise ServingError(f"{path}: request_log_level is {config.request_log_level}; expected {', '.join(LOG_LEVELS)}")
    given = [key for key in _TLS_KEYS if key in config.properties]
    if len(given) == 1:
        raise ServingError(f"{path}: {given[0]} alone; expected {' and '.join(_TLS_KEYS)}, as `make certs` prints them")
    return config


def _read_properties(path: Path) -> dict[str, str]:
    """Read UTF-8, else Latin-1, as Java's resource bundles do; blanks at the end of a value are dropped."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ServingError(f"{path}: {error.strerror}; expected TorchServe's configuration") from error
    if b"\0" in content:
        raise ServingError(f"{path}: is no text in UTF-8 or Latin-1; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    try:
        properties = {key: value.strip() for key, value in javaproperties.loads(text).items()}
    except ValueError as error:
        raise ServingError(f"{path}: {error}; expected what Java reads as properties") from error
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
            raise ServingError(f"{config.path}: {key} is {config.properties[key]}; expected such as {_DEFAULTS[key]}")
    try:
        listed = config.get_ports()
    except ValueError as error:
        raise ServingError(f"{config.path}: {error}; expected addresses such as http://127.0.0.1:8080") from error
    for name, (host, port) in listed.items():
        if not 0 < port < 65536:
            raise ServingError(f"{config.path}: {name} is {host}:{port}; expected a port from 1 to 65535")


def _check_numbers(config: Config) -> None:
    for key, (least, expected) in _NUMBERS.items():
        given = config.properties.get(key, str(least))
        pattern = r"[0-9]*\.?[0-9]+" if key == "token_expiration_min" else r"[0-9]+"
        if not re.fullmatch(pattern, given) or float(given) < least:
            raise ServingError(f"{config.path}: {key} is {given}; expected {expected}, at least {least}")
