"""docs/nginx.conf with Debian's nginx, in front of a real TorchServe: what passes, what is refused, who is cut off."""

import asyncio
import http.client
import json
import multiprocessing
import os
import re
import select
import shutil
import socket
import ssl
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from handler.decoding import MAX_BYTES
from serving.certs import CERTIFICATE, write_certificate
from serving.client import DigitsClient
from serving.config import ROOT, Config
from serving.connection import TOKENS, read_key
from serving.supervisor import running
from tests.pictures import SMOKE
from tests.servers import Sent, wait_for
from tests.test_sent import JSON, bulk

FILE = ROOT / "docs" / "nginx.conf"
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")  # Debian's is in no user's path
BACK, FRONT = "127.0.0.1:8080", "127.0.0.1:8088"  # as the file names them
PREDICT, EXPLAIN = "/predictions/digits", "/explanations/digits"
RUDE, HASTY, CROWD = "127.0.0.2", "127.0.0.3", "127.0.0.4"  # addresses of clients, each with limits of its own
BURST, CONNECTIONS = 200, 16  # of the file: limit_req and limit_conn
HEADER_SECONDS, BODY_SECONDS = 5, 10  # of the file
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed; Debian's package is nginx-light")


def nginx(folder: Path, file: Path, *words: str) -> list[str]:
    """The command; everything that nginx writes goes to the folder."""
    assert NGINX is not None
    return [NGINX, "-p", str(folder), "-c", str(file), *words]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
    port = free_port()
    with started(folder, placed(folder, server.ports()["inference"][1], port), port):
        yield replace(server, properties=server.properties | {"inference_address": f"http://127.0.0.1:{port}"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def front(server: Config, folder: Path) -> Iterator[Config]:
    with fronted(server, folder) as config:
        yield config


@pytest.fixture
def client(front: Config) -> Iterator[DigitsClient]:
    """Asks nginx, once."""
    with DigitsClient(front, retries=0) as asking:
        yield asking


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
    host, port = config.ports()["inference"]
    with closing(http.client.HTTPConnection(host, port, timeout=30, source_address=(source, 0))) as connection:
        chunked = not isinstance(body, bytes | None)
        connection.request(method, path, body, headers or authorised(config), encode_chunked=chunked)
        response = connection.getresponse()
        return Reply(response.status, response.headers, response.read())


def authorised(config: Config) -> dict[str, str]:
    return {"Authorization": f"Bearer {read_key(config.key_file, 'inference')}"}


def test_nginx_accepts_the_file_as_it_is(tmp_path: Path) -> None:
    run = subprocess.run(nginx(tmp_path, FILE, "-t"), capture_output=True, text=True)
    assert (run.returncode, "[warn]" in run.stderr) == (0, False), run.stderr


def test_the_part_between_the_marks_fits_into_another_nginx(tmp_path: Path) -> None:
    """By the command that the file itself tells."""
    [command] = re.findall(r"^#   (sed .*\n.*?) > /etc", FILE.read_text(), re.MULTILINE)
    part = subprocess.check_output(command.replace("\\\n#", ""), shell=True, cwd=ROOT, text=True)
    logs = re.findall(r"(?:access|error)_log (\S+)", part)
    assert logs == ["/var/log/nginx/digits-access.log", "/var/log/nginx/digits-error.log"]
    (tmp_path / "part.conf").write_text(part.replace("/var/log/nginx/", f"{tmp_path}/"))
    whole = tmp_path / "whole.conf"
    whole.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ include {tmp_path}/part.conf; }}")
    run = subprocess.run(nginx(tmp_path, whole, "-t"), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_lines_for_going_public_serve_by_tls_alone(server: Config, tmp_path: Path) -> None:
    write_certificate(tmp_path)
    port = free_port()
    text = FILE.read_text().replace(f"listen {FRONT};", "").replace("../certs/", f"{tmp_path}/certs/")
    text = re.sub(r"^( *)# (listen .* ssl;|ssl_)", r"\1\2", text, flags=re.MULTILINE).replace("127.0.0.1:8443", FRONT)
    trusted = ssl.create_default_context(cafile=tmp_path / CERTIFICATE)
    with started(tmp_path, placed(tmp_path, server.ports()["inference"][1], port, text), port):
        with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trusted)) as connection:
            connection.request("POST", PREDICT, SMOKE[7], authorised(server))
            assert json.loads(connection.getresponse().read())["digit"] == 7
        plain = replace(server, properties=server.properties | {"inference_address": f"http://127.0.0.1:{port}"})
        assert ask(plain, body=SMOKE[7]).refuses(400)


def test_pictures_pass_as_raw_bodies_and_as_fields_by_post_and_put_with_and_without_a_version(
    client: DigitsClient,
) -> None:
    assert client.predict(SMOKE[7]).digit == 7
    assert client.predict(SMOKE[7], "1.0").model_version == "1.0"
    assert client.ask("inference", "PUT", PREDICT, data=SMOKE[2]).json()["digit"] == 2
    field_of_a_form = {"data": ("two.png", SMOKE[2], "image/png")}
    assert client.ask("inference", "POST", PREDICT, files=field_of_a_form).json()["digit"] == 2


def test_many_pictures_in_json_and_the_bare_digit_as_text_pass(client: DigitsClient) -> None:
    told = client.ask("inference", "POST", PREDICT, data=bulk(SMOKE[3], b"", SMOKE[8]), headers=JSON).json()
    assert [each.get("digit", each.get("code")) for each in told["predictions"]] == [3, 400, 8]
    text = client.ask("inference", "POST", PREDICT, data=SMOKE[7], headers={"Accept": "text/plain"})
    assert (text.text, text.headers["Content-Type"]) == ("7", "text/plain")


def test_an_explanation_is_of_the_target_in_the_query_else_in_the_header(client: DigitsClient) -> None:
    def target(query: str, **headers: str) -> int:
        return int(client.ask("inference", "POST", EXPLAIN + query, data=SMOKE[7], headers=headers).json()["target"])

    assert [target(""), target("?target=3"), target("?target=")] == [7, 3, 7]
    assert [target("", **{"X-Target": "2"}), target("?target=3", **{"X-Target": "2"})] == [2, 3]


@pytest.mark.parametrize("target", ["10", "x", "%33", "\u0663"])
def test_a_target_that_is_no_digit_is_refused_by_the_service(target: str, front: Config) -> None:
    path = f"{EXPLAIN}?target={target}".encode().decode("latin-1")
    with closing(socket.create_connection(front.ports()["inference"], timeout=30)) as connection:
        connection.sendall(request(front, SMOKE[7], path=path))
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"expected a digit, 0 to 9" in answer


def request(config: Config, body: bytes, *lines: str, path: str = PREDICT) -> bytes:
    """The bytes of a request, with whatever headers beside the usual ones."""
    usual = [f"POST {path} HTTP/1.1", "Host: digits", f"Authorization: {authorised(config)['Authorization']}"]
    return "\r\n".join([*usual, f"Content-Length: {len(body)}", *lines, "", ""]).encode("latin-1") + body


def test_what_the_service_refuses_reaches_the_client_as_it_is(client: DigitsClient) -> None:
    no_picture = client.request("inference", "POST", PREDICT, data=b"seven")
    assert (no_picture.status_code, no_picture.json()["type"]) == (400, "InvalidImage")
    no_token = client.request("inference", "POST", PREDICT, data=SMOKE[7], headers={"Authorization": "Bearer 0"})
    assert (no_token.status_code, no_token.json()["type"]) == (400, "InvalidKeyException")
    no_version = client.request("inference", "POST", PREDICT + "/9.9", data=SMOKE[7])
    assert (no_version.status_code, no_version.json()["type"]) == (404, "ModelVersionNotFoundException")


def test_a_picture_that_calls_itself_a_form_is_a_picture_and_a_form_of_millions_of_fields_is_none(
    client: DigitsClient,
) -> None:
    """curl's --data-binary does the first; the second took a worker's life."""
    assert client.ask("inference", "POST", PREDICT, data=SMOKE[7], headers=FORM).json()["digit"] == 7
    begun = time.monotonic()
    fields = client.request("inference", "POST", PREDICT, data=b"a&" * (MAX_BYTES // 2), headers=FORM)
    assert (fields.status_code, fields.json()["type"]) == (400, "InvalidImage")
    assert time.monotonic() - begun < 10


NOT_PASSED_ON = [
    *(("GET", path, 404) for path in ("/", "/ping", "/models", "/models/digits", "/metrics", "/api-description")),
    *(("POST", path, 404) for path in ("/v1/models/digits:predict", "/v2/models/digits/infer", "/invocations")),
    *(("POST", path, 404) for path in ("/models?url=x.mar", "/workflows?url=x.war", "/wfpredict/x", "/token")),
    *(("POST", path, 404) for path in ("/predictions", "/predictions/other", "/predictions/digits2", "/refused")),
    *(("POST", PREDICT + tail, 404) for tail in ("/", "/1.0/extra", "/1.0%0a", "%0a", "/1.0%0d%0aX:%20y", "/%2e%2e")),
    *(("POST", PREDICT + tail, 404) for tail in ("/../../ping", "/%2e%2e/%2e%2e/models", "/..%2f..%2fping", "/-1")),
    ("OPTIONS", "/", 404),
    *((method, PREDICT, 405) for method in ("GET", "DELETE", "PATCH", "OPTIONS", "ANYTHING")),
    ("GET", EXPLAIN + "/1.0", 405),
    ("TRACE", PREDICT, 405),
    ("POST", PREDICT + "%zz", 400),
    ("POST", "/%00", 400),
    ("POST", "/" + "x" * 9000, 414),
]


@pytest.mark.parametrize(("method", "path", "status"), NOT_PASSED_ON, ids=lambda value: str(value)[:40])
def test_what_is_not_passed_on_is_refused_in_the_services_shape(
    method: str, path: str, status: int, front: Config
) -> None:
    reply = ask(front, method, path)
    assert reply.refuses(status), reply
    assert (reply.headers["Server"], "x-request-id" in reply.headers) == ("nginx", False)


def test_a_wrong_method_is_told_the_right_ones(front: Config) -> None:
    assert ask(front, "GET").headers["Allow"] == "POST, PUT"
    assert "Allow" not in ask(front, "GET", "/").headers


ODD = {
    "two lengths": (400, ["Content-Length: 5"]),
    "a length and chunks": (400, ["Transfer-Encoding: chunked"]),
    "chunks that are none": (501, ["Transfer-Encoding: chunked, identity"]),
    "a header of 9 KB": (400, ["X-Long: " + "x" * 9000]),
    "headers of 50 KB": (400, [f"X-{index}: {'x' * 1000}" for index in range(50)]),
    "a space before the colon": (400, ["X-Space : 1"]),
    "a folded header": (400, ["X-Folded: 1", " 2"]),
    "a control character before a name": (400, ["\x0bX-Name: 1"]),
}


@pytest.mark.parametrize("odd", ODD)
def test_requests_that_proxies_and_servers_read_differently_are_refused(odd: str, front: Config) -> None:
    status, lines = ODD[odd]
    assert_no_http(front, request(front, SMOKE[7], *lines), status)


def test_bytes_before_a_request_are_refused(front: Config) -> None:
    """TorchServe passes over them (CVE-2026-50020)."""
    assert_no_http(front, b"\0\1" + request(front, SMOKE[7]), 400)


def assert_no_http(config: Config, sent: bytes, status: int) -> None:
    with closing(socket.create_connection(config.ports()["inference"], timeout=30)) as connection:
        connection.sendall(sent)
        head, body = connection.recv(65536).split(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}".encode())
    assert json.loads(body) == {"code": status, "type": "InvalidRequest", "message": "the request is no valid HTTP"}


def test_a_body_over_the_limit_is_refused_in_json_and_one_of_the_limit_passes(
    front: Config, client: DigitsClient
) -> None:
    chunks = (b"x" * 65536 for _ in range(MAX_BYTES // 65536 + 1))
    for body in (bytes(MAX_BYTES + 1), chunks):
        assert ask(front, body=body).refuses(413)
    assert client.predict(SMOKE[7] + bytes(MAX_BYTES - len(SMOKE[7]))).digit == 7


def test_answers_to_requests_in_a_row_come_in_their_order(front: Config) -> None:
    """Sent without waiting for answers, which TorchServe itself gives as its workers are done."""
    order = [index % 10 for index in range(60)]
    told = b""
    with closing(socket.create_connection(front.ports()["inference"], timeout=30)) as connection:
        connection.sendall(b"".join(request(front, SMOKE[digit]) for digit in order))
        while told.count(b'"model_version"') < len(order):
            told += connection.recv(65536)
    assert [int(digit) for digit in re.findall(rb'"digit": (\d)', told)] == order


def test_a_client_over_the_rate_gets_429_and_no_other_does(front: Config, client: DigitsClient) -> None:
    """Without a token, which TorchServe refuses faster than the limit allows, whatever the machine."""
    with ThreadPoolExecutor(CONNECTIONS // 2) as pool:
        hasty = list(pool.map(lambda _: ask(front, headers={"X-Token": "none"}, source=HASTY), range(4 * BURST)))
    assert {reply.status for reply in hasty} == {400, 429}
    assert sum(reply.status == 400 for reply in hasty) >= BURST
    assert all(reply.refuses(429) for reply in hasty if reply.status == 429)
    assert client.predict(SMOKE[7]).digit == 7


def test_a_client_with_too_many_requests_under_way_gets_429_for_the_next(front: Config, client: DigitsClient) -> None:
    address, half = front.ports()["inference"], request(front, bytes(1000))[:-500]
    with ExitStack() as crowd:
        lines = [crowd.enter_context(socket.create_connection(address, 30, (CROWD, 0))) for _ in range(CONNECTIONS + 3)]
        for line in lines:
            line.sendall(half)
        wait_for(lambda: len(answered(lines)) == 3, 5)
        assert all(line.recv(65536).startswith(b"HTTP/1.1 429") for line in answered(lines))
        assert ask(front, body=SMOKE[7], source=CROWD).refuses(429)
        assert client.predict(SMOKE[7]).digit == 7
    wait_for(lambda: ask(front, body=SMOKE[7], source=CROWD).status == 200, 5)


def answered(lines: list[socket.socket]) -> list[socket.socket]:
    return select.select(lines, [], [], 0)[0]


def test_headers_that_are_torchserves_own_words_change_nothing(client: DigitsClient) -> None:
    words = {"explain": "True", "describe": "True", "url_path": "/x", "Explain": "True"}
    told = client.ask("inference", "POST", PREDICT, data=SMOKE[7], headers=words).json()
    assert (list(told)[:2], told["digit"]) == (["digit", "confidence"], 7)
    told = client.ask("inference", "POST", EXPLAIN, data=SMOKE[7], headers={"explain": "False"}).json()
    assert (told["digit"], len(told["attribution"])) == (7, 64)


@dataclass
class Upstream:
    """In TorchServe's place: what arrived there, as method, path, headers in lower case and body."""

    port: int
    arrived: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def upstream(breaks: Callable[[int], bool] = lambda _: False) -> Iterator[Upstream]:
    """Answers 200, but breaks the connection at some requests, by their number on it."""

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        served = 0

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            recorded.arrived.append((self.command, self.path, headers, body))
            self.served += 1
            if breaks(self.served):
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as serving:
        recorded = Upstream(serving.server_port)
        thread = Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield recorded
        finally:
            serving.shutdown()
            thread.join()


@contextmanager
def in_front_of(back: int, folder: Path) -> Iterator[Callable[..., Reply]]:
    """Asks nginx, all on one connection and so one nginx worker, whose kept connections are the ones used again."""
    port = free_port()
    with (
        started(folder, placed(folder, back, port), port),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection,
    ):

        def asked(path: str = PREDICT, **headers: str) -> Reply:
            connection.request("POST", path, SMOKE[7], headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

        yield asked


def test_torchserve_sees_the_path_the_token_and_no_word_of_its_own(tmp_path: Path) -> None:
    with upstream() as behind, in_front_of(behind.port, tmp_path) as asked:
        asked(EXPLAIN + "/1.0?target=3&explain=True", explain="True", describe="True", url_path="/x", Authorization="A")
        asked("//predictions/./digits/%31%2e0", **{"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=x"})
        asked(**{"Content-Type": "multipart/form-data; boundary=B", "X-Target": "4"})
    first, second, third = behind.arrived
    assert first[:2] == ("POST", EXPLAIN + "/1.0")
    assert (first[2]["authorization"], first[2]["x-target"]) == ("A", "3")
    assert not {"explain", "describe", "url_path", "connection", "content-type"} & first[2].keys()
    assert (second[1], second[2]["content-type"]) == (PREDICT + "/1.0", "application/octet-stream")
    assert "x-target" not in second[2]
    assert (third[2]["content-type"], third[2]["x-target"]) == ("multipart/form-data; boundary=B", "4")
    assert [each[3] for each in behind.arrived] == [SMOKE[7]] * 3


def test_a_kept_connection_that_breaks_costs_no_request_and_a_new_one_is_not_asked_twice(tmp_path: Path) -> None:
    with upstream(lambda number: number == 2) as behind, in_front_of(behind.port, tmp_path) as asked:
        assert [asked().status for _ in range(2)] == [200, 200]
        assert len(behind.arrived) == 3
    with upstream(lambda _: True) as behind, in_front_of(behind.port, tmp_path) as asked:
        assert asked().refuses(502)
        assert len(behind.arrived) == 1


def test_nobody_behind_it_is_told_in_json(tmp_path: Path) -> None:
    with in_front_of(free_port(), tmp_path) as asked:
        assert asked().refuses(502)


def test_who_sends_nothing_or_half_a_body_is_cut_off_and_torchserve_never_hears_of_them(tmp_path: Path) -> None:
    with upstream() as behind:
        port = free_port()
        with started(tmp_path, placed(tmp_path, behind.port, port), port):
            half = f"POST {PREDICT} HTTP/1.1\r\nHost: digits\r\nContent-Length: 1000\r\n\r\nhalf".encode()
            said = {b"": HEADER_SECONDS, half[:30]: HEADER_SECONDS, half: BODY_SECONDS}
            begun = time.monotonic()
            lines = [(socket.create_connection(("127.0.0.1", port), 30), *each) for each in said.items()]
            for line, words, _ in lines:
                line.sendall(words)
            for line, _, seconds in lines:
                with line, suppress(ConnectionResetError):
                    assert line.recv(1000) == b""
                assert seconds - 0.5 < time.monotonic() - begun < seconds + 2
    assert not behind.arrived


def test_no_token_and_no_query_is_in_nginxs_logs(client: DigitsClient, folder: Path) -> None:
    """The last of these is what nginx writes to its error log unless told otherwise."""
    client.request("inference", "POST", EXPLAIN + "?target=5&secret=hidden", data=SMOKE[7])
    client.request("inference", "POST", "/nowhere?secret=hidden")
    client.request("inference", "POST", PREDICT + "?secret=hidden", data=bytes(MAX_BYTES + 1))
    logs = "".join(path.read_text() for path in folder.glob("*.log"))
    assert f'"POST {EXPLAIN}" 200' in logs
    assert '"POST /nowhere" 404' in logs
    assert f'"POST {PREDICT}" 413' in logs
    assert not [word for word in ("hidden", "target", *map(client.token, TOKENS)) if word in logs]


# Rude clients beside a normal load. 8 connections with a picture every 0.1 s each: 80 a second, under the limit of 100.
NORMAL, EVERY = 8, 0.1
RUDE_CLIENTS = 200
ROUNDS, PHASE = 5, 3.0  # quiet and rude by turns, s each
STAY, PAUSE = 0.2, 0.3  # s until a rude client leaves, and until it comes again


def normal_load(config: Config, seconds: float) -> list[Sent]:
    """Every request of NORMAL connections that are kept, each with a picture every so many seconds."""
    end = time.monotonic() + seconds
    headers = authorised(config)

    def keep_asking(first: float) -> list[Sent]:
        time.sleep(first)
        with closing(http.client.HTTPConnection(*config.ports()["inference"], timeout=30)) as connection:
            return list(steadily(connection, headers, end))

    with ThreadPoolExecutor(NORMAL) as pool:
        by_connection = pool.map(keep_asking, np.arange(NORMAL) * EVERY / NORMAL)
        return [sent for one in by_connection for sent in one]


def steadily(connection: http.client.HTTPConnection, headers: dict[str, str], end: float) -> Iterator[Sent]:
    while (begun := time.monotonic()) < end:
        status, body = 0, b""
        try:
            connection.request("POST", PREDICT, SMOKE[7], headers)
            response = connection.getresponse()
            status, body = response.status, response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
        ended = time.monotonic()
        yield Sent(begun, begun, ended, status, body)
        time.sleep(max(0.0, begun + EVERY - ended))


def p99(sent: list[Sent]) -> float:
    """In milliseconds."""
    return 1000 * float(np.percentile([each.ended - each.begun for each in sent], 99))


def rude_clients(address: tuple[str, int], half: bytes, on: Event, ended: Event, met: "Queue[dict[str, int]]") -> None:
    """RUDE_CLIENTS connections, a third of each kind, while it is on; a process of its own."""
    os.nice(10)  # as if on another machine: they shall not compete for these cores
    asyncio.run(come_and_go(address, half, on, ended, met))


async def come_and_go(
    address: tuple[str, int], half: bytes, on: Event, ended: Event, met: "Queue[dict[str, int]]"
) -> None:
    kinds = ("sends nothing", "half, then nothing", "half, then leaves")
    counts: Counter[str] = Counter()
    met.put({})
    while not ended.is_set():
        if not on.is_set():
            await asyncio.sleep(0.05)
            continue
        tasks = [asyncio.create_task(rude(kinds[index % 3], address, half, counts)) for index in range(RUDE_CLIENTS)]
        while on.is_set() and not ended.is_set():
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    met.put(dict(counts))


async def rude(kind: str, address: tuple[str, int], half: bytes, counts: Counter[str]) -> None:
    while True:
        try:
            await rude_once(kind, address, half, counts)
        except OSError:
            counts[kind + ": connection broken"] += 1
        await asyncio.sleep(PAUSE)


async def rude_once(kind: str, address: tuple[str, int], half: bytes, counts: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection(*address, local_addr=(RUDE, 0))
    counts[kind] += 1
    try:
        if kind != "sends nothing":
            writer.write(half)
            await writer.drain()
        if kind == "half, then leaves":
            await asyncio.sleep(STAY)
        else:
            answer = await reader.read(len("HTTP/1.1 429"))
            counts[f"{kind}: {answer.decode() or 'cut off'}"] += 1
    finally:
        writer.close()


@contextmanager
def rude_process(config: Config) -> Iterator[Event]:
    """They come when the event is set and go when it is cleared; prints at the end how they fared."""
    context = multiprocessing.get_context("spawn")  # threads of this process hold locks that a fork would inherit
    on, ended, met = context.Event(), context.Event(), context.Queue()
    half = request(config, bytes(16384))[:-8192]
    process = context.Process(target=rude_clients, args=(config.ports()["inference"], half, on, ended, met))
    process.start()
    try:
        met.get(timeout=30)  # it has begun
        yield on
    finally:
        ended.set()
        for what, count in sorted(met.get(timeout=30).items()):
            print(f"  {count:6d} {what}")
        process.join()


def beside_rude_clients(config: Config, rounds: int) -> tuple[list[float], list[float], list[Sent]]:
    """p99 of the phases without and with them, in turn, and every request of the normal load."""
    quiet, beside, sent = [], [], normal_load(config, 1.0)
    with rude_process(config) as on:
        for _ in range(rounds):
            phase = normal_load(config, PHASE)
            quiet.append(p99(phase))
            on.set()
            time.sleep(0.5)
            phase_beside = normal_load(config, PHASE)
            beside.append(p99(phase_beside))
            on.clear()
            time.sleep(0.3)
            sent += phase + phase_beside
    return quiet, beside, sent


def lost(sent: list[Sent]) -> Counter[int]:
    """Statuses other than 200 and how often; 0 is a broken connection."""
    return Counter(each.status for each in sent if each.status != 200)


def ratio(where: str, quiet: list[float], beside: list[float], sent: list[Sent]) -> float:
    """Of the medians; prints the figures."""
    before, with_them = statistics.median(quiet), statistics.median(beside)
    print(f"{where}: {len(sent)} requests, lost {dict(lost(sent)) or 'none'}")
    print(f"  p99 without {RUDE_CLIENTS} rude clients {before:.1f} ms {[round(each, 1) for each in quiet]}")
    print(f"  p99 beside them {with_them:.1f} ms {[round(each, 1) for each in beside]}: {with_them / before:.2f} times")
    return with_them / before


def test_rude_clients_cost_a_normal_load_behind_nginx_nothing(front: Config) -> None:
    quiet, beside, sent = beside_rude_clients(front, ROUNDS)
    times = ratio("behind nginx", quiet, beside, sent)
    assert len(sent) > 1000
    assert not lost(sent)
    assert times <= 2


def test_torchserve_alone_answers_again_after_rude_clients(own: Config) -> None:
    """What they cost without nginx is told, not promised."""
    with running(own):
        ratio("TorchServe alone", *beside_rude_clients(own, 2))
        with DigitsClient(own, retries=0) as client:
            assert client.predict(SMOKE[7]).digit == 7
