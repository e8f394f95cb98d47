"""Where tokens are, and where they never are: a server in a process of its own, after a bad day."""

import stat
from pathlib import Path

import psutil
import pytest
import requests

from serving.client import DigitsClient
from serving.config import TOKENS, Config, ServingError
from serving.connection import read_key
from tests.archives import provide_archive
from tests.pictures import SMOKE
from tests.servers import command, family, output_until_curl, started, wait_for, with_archives, workers


class BadDay:
    """What a server says and keeps of itself while much goes wrong, and every token that was valid meanwhile."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tokens: set[str] = set()
        with started(config) as process:
            self.said = output_until_curl(process)
            self._note()
            processes = [psutil.Process(process.pid), *family(process)]
            self.listening = [address for each in processes for address in _listening(each)]
            self.words = [word for each in processes for word in each.cmdline()]
            self.modes = {str(path): path.stat().st_mode for path in _with_tokens(config, processes)}
            self._go_wrong()
            workers(process)[0].kill()
            with DigitsClient(config) as client:
                wait_for(lambda: client.default().ready == 2)
            self.said += command(config, "token", "--rotate").stderr
            self._note()
            self._go_wrong()

    def _note(self) -> None:
        self.tokens |= {read_key(self.config.key_file, kind) for kind in TOKENS}

    def _go_wrong(self) -> None:
        inference, management = (read_key(self.config.key_file, kind) for kind in ("inference", "management"))
        url = self.config.url("inference") + "/predictions/digits"
        for token in ("wrong", management, f"{inference}x"):
            requests.post(url, SMOKE[7], headers={"Authorization": f"Bearer {token}"}, timeout=10)
        with DigitsClient(self.config) as client:
            list(client.predict_many([SMOKE[1], b"", *SMOKE.values()]))
            client.explain(SMOKE[7])
            for path in ("/models/digits?customized=true", "/models/nothing", "/models?url=file:///etc/passwd"):
                client.request("management", "POST" if "url" in path else "GET", path)
            with pytest.raises(ServingError):
                client.register("digits-9.9.mar")
        for words in (["predict", "nowhere.png"], ["register", "digits-2.0.mar"], ["status"], ["metrics"]):
            run = command(self.config, *words)
            self.said += run.stdout + run.stderr


def _listening(process: psutil.Process) -> list[str]:
    """The addresses it accepts connections at."""
    return [each.laddr.ip for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]


def _with_tokens(config: Config, processes: list[psutil.Process]) -> list[Path]:
    """Every file that holds the keys: the published one, and TorchServe's own, whose folder nobody else may enter."""
    own = {Path(each.cwd()) for each in processes if each.name() == "java"}
    return [config.key_file, *(folder / "key_file.json" for folder in own)]


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> BadDay:
    config = with_archives(tmp_path_factory.mktemp("secrets"), "1.0")
    provide_archive("2.0", config.model_store).write_bytes(b"no archive")
    return BadDay(config)


def test_no_token_is_in_a_log_an_output_a_command_line_or_the_state(bad_day: BadDay) -> None:
    folder = bad_day.config.folder
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".mar", ".gz")]
    kept = {path.name: path.read_text(errors="replace") for path in files}
    assert {"torchserve.log", "errors", "served.json", ".serve.lock"} <= set(kept)
    assert len(bad_day.tokens) >= 5  # three kinds, two of them changed
    texts = kept | {"said": bad_day.said, "command lines": " ".join(bad_day.words)}
    assert [name for name, text in texts.items() for token in bad_day.tokens if token in text] == []
    assert "Bearer" not in "".join(kept.values())


def test_tokens_are_readable_by_their_owner_alone(bad_day: BadDay) -> None:
    assert len(bad_day.modes) == 2
    assert {stat.filemode(mode) for mode in bad_day.modes.values()} == {"-rw-------"}
    assert not bad_day.config.key_file.exists()  # gone with the server


def test_a_running_server_listens_on_loopback_alone(bad_day: BadDay) -> None:
    assert {address.removeprefix("::ffff:") for address in bad_day.listening} == {"127.0.0.1"}
    assert len(bad_day.listening) == len(bad_day.config.ports())
