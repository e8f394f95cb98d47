"""Check options, folders, addresses and space, since the server would never become ready and not say why."""

import errno
import os
import shutil
import socket
import sys
import tempfile
from itertools import combinations
from pathlib import Path

from serving.config import Config, ServingError

TEMPORARY_PREFIX = "digits-"
TEMPORARY_BYTES = 16 * 2**20  # free space needed by extracted archives and Java
TRIAL_BYTES = 2**20  # written as a trial, to check that state and logs can be written
# Maximum length of the path of a Unix socket.
_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
_SOCKET_NAME = f"/{TEMPORARY_PREFIX}12345678/.ts.sock.65535"
_STATE_ADVICE = (
    "the supervisor keeps which versions are served; remove the line, and use `make register` and `make promote`"
)
_REJECTED_SWITCHES = {  # rejected if true
    "disable_token_authorization": "the supervisor manages TorchServe by its tokens; remove the line",
    "enable_envvars_config": "environment variables would override this file; write the options here instead",
}
_REJECTED_OPTIONS = {
    "keystore": "clients verify a PEM certificate; name it in certificate_file, and its key in private_key_file",
    "load_models": _STATE_ADVICE,
    "model_snapshot": _STATE_ADVICE,
    "models": _STATE_ADVICE,
    "service_envelope": "the handler reads requests as they are sent; remove the line",
}
_FILE_ADVICE = {
    **dict.fromkeys(("certificate_file", "private_key_file"), "`make certs` writes one for testing"),
    "metrics_config": "remove the line to use TorchServe's default",
}
_BIND_ADVICE = {  # errno of bind -> problem, advice
    errno.EADDRINUSE: (
        "already in use",
        "stop the program that listens there (`make stop` if it is this server), or change the port",
    ),
    errno.EADDRNOTAVAIL: ("not an address of this machine", "use 127.0.0.1, or one that `ip address` lists"),
    errno.EACCES: ("not permitted to this user", "use a port from 1024 on"),
    errno.EAFNOSUPPORT: ("of an address family that this machine does not support", "use an IPv4 address"),
}


def check_options(config: Config) -> None:
    """Raise ServingError for an option that the supervisor does not support."""
    properties = config.properties
    problems = {key: text for key, text in _REJECTED_SWITCHES.items() if properties.get(key, "").lower() == "true"}
    problems |= {key: text for key, text in _REJECTED_OPTIONS.items() if key in properties}
    if config.certificate is None:
        missing = "there is no certificate_file; `make certs` writes one for testing"
        tls = [key for key in properties if key.endswith("_address") and properties[key].startswith("https:")]
        problems |= dict.fromkeys(tls, missing)
        if properties.get("enable_grpc_ssl", "").lower() == "true":
            problems["enable_grpc_ssl"] = missing
    if properties["supervisor_address"].startswith("https:"):
        problems["supervisor_address"] = "the supervisor does not support TLS; use http, and a proxy in front of it"
    for name in [name for name in _FILE_ADVICE if name in properties]:
        path = config.folder / properties[name]
        if not os.access(path, os.R_OK) or not path.is_file():
            raise ServingError(f"{path}: {name} cannot be read; {_FILE_ADVICE[name]}")
    for key, reason in problems.items():
        raise ServingError(f"{config.path}: {key} is {properties[key]}, which is not supported: {reason}")


def check_folders(config: Config) -> None:
    """Create the folders of state and logs; ServingError unless they can be written."""
    for folder in (config.home, config.logs, config.logs / "config", config.worker_metrics):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as file:
                file.write(bytes(TRIAL_BYTES))
                os.fsync(file.fileno())
        except OSError as error:
            raise _make_folder_error(folder, error.strerror or str(error)) from error
    for path in (config.lock_file, config.request_log, config.logs / "torchserve.log"):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise _make_folder_error(path, "belongs to another user")


def _make_folder_error(path: Path, problem: str) -> ServingError:
    advice = "change that, or set DIGITS_HOME to another folder for state, logs and archives"
    return ServingError(f"{path}: cannot be written ({problem}); {advice}")


def check_ports(config: Config) -> None:
    """Raise ServingError that lists every address that cannot be bound."""
    problems: dict[tuple[str, str], list[str]] = {}
    for name, (host, port) in config.get_ports().items():
        if problem := _find_port_problem(host, port):
            problems.setdefault(problem, []).append(f"{name} {host}:{port}")
    if problems:
        lines = (f"{problem}: {', '.join(listed)}; {advice}" for (problem, advice), listed in problems.items())
        raise ServingError(f"{'. '.join(lines)}; the addresses are in {config.path}")
    resolved = {name: resolve_address(*address)[1] for name, address in config.get_ports().items()}
    for (name, (host, port)), (other, (other_host, other_port)) in combinations(resolved.items(), 2):
        if port == other_port and (host == other_host or {host, other_host} & {"0.0.0.0", "::"}):
            raise ServingError(f"{config.path}: {name} and {other} share port {port}; give one of them another port")


def _find_port_problem(host: str, port: int) -> tuple[str, str] | None:
    """Return the problem with this address and advice; None if it can be bound."""
    try:
        family, address = resolve_address(host, port)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: ignore old connections
            probe.bind(address)
    except (socket.gaierror, UnicodeError):
        return "unknown host name", "check its spelling, or use an address such as 127.0.0.1"
    except OSError as error:
        return _BIND_ADVICE.get(error.errno or 0, (str(error.strerror), "use another address"))
    return None


def resolve_address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the family and the address of a host; IPv4 if it has both, as Java does."""
    candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(candidates, key=lambda info: info[0] != socket.AF_INET)
    return family, (str(address[0]), port)


def make_temporary_folder(config: Config) -> Path:
    """Create a folder for a server's sockets and extracted archives; return its path.

    Tries DIGITS_HOME/tmp if DIGITS_HOME is set, then TMPDIR, then /tmp. ServingError if none is suitable.
    """
    places = [config.home / "tmp"] if os.environ.get("DIGITS_HOME") else []
    places += [Path(os.environ.get("TMPDIR") or tempfile.gettempdir()).absolute(), Path("/tmp")]
    problems = []
    for place in dict.fromkeys(places):
        try:
            if place == config.home / "tmp":
                place.mkdir(exist_ok=True)
            _check_temporary_folder(place)
            folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=place))
        except OSError as error:
            problems.append(f"{place}: {error.strerror or error}")
            continue
        if problems:
            print(f"note: temporary files are in {place} ({'; '.join(problems)})", file=sys.stderr, flush=True)
        return folder
    raise ServingError(f"no folder for temporary files: {'; '.join(problems)}; set TMPDIR to one that is suitable")


def _check_temporary_folder(place: Path) -> None:
    longest = _SOCKET_BYTES - len(_SOCKET_NAME)
    if (length := len(os.fsencode(place))) > longest:
        raise OSError(f"its path has {length} bytes; Unix sockets in it allow at most {longest}")
    if (free := shutil.disk_usage(place).free) < TEMPORARY_BYTES:
        raise OSError(f"{free / 2**20:.1f} MiB are free, {TEMPORARY_BYTES // 2**20} are needed")
