"""Tokens stay secret, also after many errors: a server in a separate process."""

import stat
from pathlib import Path

import psutil
import pytest
import requests

from digits_client.transport import read_token
from serving.config import TOKEN_KINDS, Config, ServingError
from serving.local_management import LocalManagementClient
from tests.archives import provide_archive
from tests.images import SMOKE
from tests.servers import list_processes, list_workers, read_until_curl, run_in_process, run_process, wait_for


def read_tokens(config: Config) -> set[str]:
    return {read_token(config.key_file, kind) for kind in TOKEN_KINDS}


def cause_errors(config: Config) -> str:
    """Send wrong tokens, invalid images and requests; return the output of the commands."""
    inference, management = (read_token(config.key_file, kind) for kind in ("inference", "management"))
    url = config.get_url("inference") + "/predictions/digits"
    for token in ("wrong", management, f"{inference}x"):
        requests.post(url, SMOKE[7], headers={"Authorization": f"Bearer {token}"}, timeout=10)
    with LocalManagementClient(config) as client:
        list(client.inference.predict_batch([SMOKE[1], b"", *SMOKE.values()]))
        client.inference.explain(SMOKE[7])
        for path in ("/models/digits?customized=true", "/models/nothing", "/models?url=file:///etc/passwd"):
            client.api.request("POST" if "url" in path else "GET", path)
        with pytest.raises(ServingError):
            client.register("digits-9.9.mar")
    commands = ("predict nowhere.png", "register digits-2.0.mar", "status", "metrics")
    runs = [run_in_process(config, *words.split()) for words in commands]
    return "".join(run.stdout + run.stderr for run in runs)


def find_listening(process: psutil.Process) -> list[str]:
    """Find the addresses at which a process accepts connections."""
    return [item.laddr.ip for item in process.net_connections("inet") if item.status == psutil.CONN_LISTEN]


@pytest.mark.slow
def test_tokens_and_ports_stay_private_after_errors(own: Config) -> None:
    """No token is in a log, an output, a command line or the state; nobody else reads a key file or connects."""
    provide_archive("2.0", own.model_store).write_bytes(b"no archive")
    with run_process(own) as process:
        said = read_until_curl(process)
        tokens = read_tokens(own)
        processes = [psutil.Process(process.pid), *list_processes(process)]
        command_lines = " ".join(word for child in processes for word in child.cmdline())
        listening = [address.removeprefix("::ffff:") for child in processes for address in find_listening(child)]
        assert listening == ["127.0.0.1"] * len(own.get_ports())
        [torchserves_own] = [Path(child.cwd()) / "key_file.json" for child in processes if child.name() == "java"]
        for path in (own.key_file, torchserves_own):
            assert stat.filemode(path.stat().st_mode) == "-rw-------"
        said += cause_errors(own)
        list_workers(process)[0].kill()
        with LocalManagementClient(own) as client:
            wait_for(lambda: client.get_default().ready == 2)
        said += run_in_process(own, "token", "--rotate").stderr
        tokens |= read_tokens(own)
        said += cause_errors(own)
    assert not own.key_file.exists()  # gone with the server
    assert len(tokens) >= 5  # three kinds, two of them changed
    files = [path for path in own.folder.rglob("*") if path.is_file() and path.suffix not in (".mar", ".gz")]
    kept = {path.name: path.read_text(errors="replace") for path in files}
    assert {"torchserve.log", "errors", "served.json", ".serve.lock"} <= set(kept)
    texts = kept | {"said": said, "command lines": command_lines}
    assert [name for name, text in texts.items() for token in tokens if token in text] == []
    assert "Bearer" not in "".join(kept.values())
