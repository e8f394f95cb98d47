"""Debian's nginx with docs/nginx.conf in front of a real TorchServe, and requests sent to it byte for byte."""

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

CONFIG_FILE = ROOT / "docs" / "nginx.conf"
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")  # Debian's is not in a user's path
UPSTREAM_ADDRESS, NGINX_ADDRESS = "127.0.0.1:8080", "127.0.0.1:8088"  # as in docs/nginx.conf
PREDICT, EXPLAIN = "/predictions/digits", "/explanations/digits"

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed; Debian's package is nginx-light")


def make_nginx_command(folder: Path, file: Path, *words: str) -> list[str]:
    """Return the command; nginx writes all of its files to the folder."""
    assert NGINX is not None
    return [NGINX, "-p", str(folder), "-c", str(file), *words]


def write_config(folder: Path, upstream_port: int, port: int, text: str | None = None) -> Path:
    """Write docs/nginx.conf, or `text`, to the folder with these ports; return its path."""
    text = text or CONFIG_FILE.read_text()
    for address, new_port in ((UPSTREAM_ADDRESS, upstream_port), (NGINX_ADDRESS, port)):
        assert address in text
        text = text.replace(address, f"127.0.0.1:{new_port}")
    (folder / "nginx.conf").write_text(text)
    return folder / "nginx.conf"


@contextmanager
def run_nginx(folder: Path, file: Path, port: int) -> Iterator[None]:
    """Run nginx while the block runs; root's workers run as root, since others cannot enter root's folders."""
    main = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    with subprocess.Popen(make_nginx_command(folder, file, "-g", main)) as process:
        try:
            wait_for(lambda: process.poll() is not None or is_listening(port), 10)
            assert process.poll() is None
            yield
        finally:
            process.terminate()


def is_listening(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def run_behind_nginx(server: Config, folder: Path) -> Iterator[Config]:
    """Run nginx in front of the server; yield the server's configuration with nginx's inference address."""
    port = find_port()
    with run_nginx(folder, write_config(folder, server.get_ports()["inference"][1], port), port):
        yield replace(server, properties=server.properties | {"inference_address": f"http://127.0.0.1:{port}"})


@dataclass
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def is_error(self, status: int) -> bool:
        """Return whether it is an error with this status and the service's JSON fields."""
        body = json.loads(self.body)
        return (
            list(body) == ["code", "type", "message"]
            and self.status == body["code"] == status
            and bool(body["type"] and body["message"])
            and self.headers["Content-Type"] == "application/json"
        )


def send_request(
    config: Config,
    method: str = "POST",
    path: str = PREDICT,
    body: Any = None,
    headers: dict[str, str] | None = None,
    source: str = "127.0.0.1",
) -> Reply:
    """Send a request without normalising its path, over a new connection from this machine's address `source`."""
    host, port = config.get_ports()["inference"]
    with closing(http.client.HTTPConnection(host, port, timeout=30, source_address=(source, 0))) as connection:
        chunked = not isinstance(body, bytes | None)
        connection.request(method, path, body, headers or make_token_headers(config), encode_chunked=chunked)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())


def make_token_headers(config: Config) -> dict[str, str]:
    return {"Authorization": f"Bearer {read_token(config.key_file, 'inference')}"}


def format_request(config: Config, body: bytes, *lines: str, path: str = PREDICT) -> bytes:
    """Return the bytes of a request with the usual header lines and these."""
    usual = [f"POST {path} HTTP/1.1", "Host: digits", f"Authorization: {make_token_headers(config)['Authorization']}"]
    return "\r\n".join([*usual, f"Content-Length: {len(body)}", *lines, "", ""]).encode("latin-1") + body
