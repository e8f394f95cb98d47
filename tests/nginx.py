"""Debian's nginx with docs/nginx.conf, in front of a real TorchServe, and requests to it as they are written."""

import http.client
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from digits_client.transport import read_token
from serving.config import ROOT, Config
from tests.servers import find_port, wait_for

FILE = ROOT / "docs" / "nginx.conf"
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")  # Debian's is in no user's path
BACK, FRONT = "127.0.0.1:8080", "127.0.0.1:8088"  # as the file names them
PREDICT, EXPLAIN = "/predictions/digits", "/explanations/digits"

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed; Debian's package is nginx-light")


def nginx(folder: Path, file: Path, *words: str) -> list[str]:
    """The command; everything that nginx writes goes to the folder."""
    assert NGINX is not None
    return [NGINX, "-p", str(folder), "-c", str(file), *words]


def placed(folder: Path, back: int, front: int, text: str | None = None) -> Path:
    """The file, or another text of it, with other ports, in a folder."""
    text = text or FILE.read_text()
    for old, port in ((BACK, back), (FRONT, front)):
        assert old in text
        text = text.replace(old, f"127.0.0.1:{port}")
    (folder / "nginx.conf").write_text(text)
    return folder / "nginx.conf"


@contextmanager
def started(folder: Path, file: Path, port: int) -> Iterator[None]:
    """nginx while the block runs. Root's would have workers of a user who may not enter root's folders."""
    main = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    with subprocess.Popen(nginx(folder, file, "-g", main)) as process:
        try:
            wait_for(lambda: process.poll() is not None or listens(port), 10)
            assert process.poll() is None
            yield
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def fronted(server: Config, folder: Path) -> Iterator[Config]:
    """The server's configuration, its inference address being nginx's."""
    port = find_port()
    with started(folder, placed(folder, server.get_ports()["inference"][1], port), port):
        yield replace(server, properties=server.properties | {"inference_address": f"http://127.0.0.1:{port}"})


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def refuses(self, status: int) -> bool:
        """Whether it is a refusal in the service's shape."""
        told = json.loads(self.body)
        return (
            list(told) == ["code", "type", "message"]
            and self.status == told["code"] == status
            and bool(told["type"] and told["message"])
            and self.headers["Content-Type"] == "application/json"
        )


def ask(
    config: Config,
    method: str = "POST",
    path: str = PREDICT,
    body: Any = None,
    headers: dict[str, str] | None = None,
    source: str = "127.0.0.1",
) -> Reply:
    """One request as it is written here, on a connection of its own, from an address of this machine."""
    host, port = config.get_ports()["inference"]
    with closing(http.client.HTTPConnection(host, port, timeout=30, source_address=(source, 0))) as connection:
        chunked = not isinstance(body, bytes | None)
        connection.request(method, path, body, headers or authorised(config), encode_chunked=chunked)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())


def authorised(config: Config) -> dict[str, str]:
    return {"Authorization": f"Bearer {read_token(config.key_file, 'inference')}"}


def request(config: Config, body: bytes, *lines: str, path: str = PREDICT) -> bytes:
    """The bytes of a request, with whatever headers beside the usual ones."""
    usual = [f"POST {path} HTTP/1.1", "Host: digits", f"Authorization: {authorised(config)['Authorization']}"]
    return "\r\n".join([*usual, f"Content-Length: {len(body)}", *lines, "", ""]).encode("latin-1") + body
