"""TLS with a real server: trusted and rejected certificates, protocols, configuration errors."""

import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from digits_client.exceptions import UnreachableError
from digits_client.management import ManagementClient
from digits_client.transport import read_token
from serving.config import Config, ServingError, read_config
from serving.local_management import LocalManagementClient
from tests.images import SMOKE
from tests.servers import (
    configure_free_ports,
    configure_with_archives,
    make_certificate,
    run_in_process,
    run_subprocess,
    run_supervised,
)

CERTIFICATE, KEY = "certs/server.pem", "certs/server.key"  # as `make certs` writes them


def configure_tls(config: Config) -> Config:
    config.path.write_text(config.path.read_text() + make_certificate(config.folder).stdout)
    return read_config(config.path)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    config = configure_tls(configure_with_archives(tmp_path_factory.mktemp("tls"), "1.0"))
    with run_supervised(config):
        yield config


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that is not the server's."""
    folder = tmp_path_factory.mktemp("another")
    make_certificate(folder)
    return folder / CERTIFICATE


def test_client_predicts_manages_and_reads_readiness(encrypted: Config) -> None:
    with LocalManagementClient(encrypted, retries=0) as client:
        assert encrypted.get_url("inference").startswith("https://")
        assert client.inference.predict(SMOKE[7]).digit == 7
        assert client.get_default().version == "1.0"
        assert client.status.read_readiness() == (True, "ready")
    assert run_in_process(encrypted, "models").returncode == 0


def test_client_rejects_another_certificate(encrypted: Config, another: Path) -> None:
    message = "has another certificate than the expected one"
    elsewhere = replace(encrypted, properties=encrypted.properties | {"certificate_file": str(another)})
    with LocalManagementClient(elsewhere, retries=0) as client, pytest.raises(UnreachableError, match=message):
        client.inference.predict(SMOKE[7])
    server = encrypted.make_server()
    with ManagementClient(server=server, certificate=another, retries=0) as management:
        for call in (management.get_default, lambda: management.inference.predict(SMOKE[7])):
            with pytest.raises(UnreachableError, match=message):
                call()


def run_s_client(port: int, certificate: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(certificate)]
    run = [*command, "-verify_return_error", "-verify_ip", "127.0.0.1", *words]
    return subprocess.run(run, input="", capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize("address", ["inference", "management", "grpc_inference", "grpc_management"])
def test_openssl_trusts_every_address_with_tokens_and_no_other_certificate(
    address: str, encrypted: Config, another: Path
) -> None:
    port = encrypted.get_ports()[address][1]
    trusted, rejected = run_s_client(port, encrypted.folder / CERTIFICATE), run_s_client(port, another)
    assert (trusted.returncode, rejected.returncode) == (0, 1)
    assert "Verify return code: 0 (ok)" in trusted.stdout
    assert "self-signed certificate" in rejected.stderr


def test_protocols_before_tls_1_2_are_rejected(encrypted: Config) -> None:
    """The client offers only the old protocol; the server responds with an alert."""
    for protocol in ("-tls1", "-tls1_1"):
        old = (protocol, "-cipher", "ALL:@SECLEVEL=0")
        run = run_s_client(encrypted.get_ports()["inference"][1], encrypted.folder / CERTIFICATE, *old)
        assert run.returncode != 0
        assert "alert protocol version" in run.stderr


def test_plain_http_is_an_error_with_tls(encrypted: Config) -> None:
    for api, path in (("inference", "predictions/digits"), ("management", "models")):
        host, port = encrypted.get_ports()[api]
        headers = {"Authorization": f"Bearer {read_token(encrypted.key_file, api)}"}
        response = requests.get(f"http://{host}:{port}/{path}", headers=headers, timeout=10)
        assert response.status_code == 403
        assert "only accepts HTTPS" in response.text


def test_certs_writes_a_private_key_and_prints_the_lines_that_enable_tls(tmp_path: Path) -> None:
    plain = configure_free_ports(tmp_path)
    run = make_certificate(tmp_path)
    plain.path.write_text(plain.path.read_text() + run.stdout)
    config = read_config(plain.path)
    assert config.get_url("inference") == plain.get_url("inference").replace("http", "https")
    assert config.get_url("metrics") == plain.get_url("metrics")
    ssl.create_default_context(cafile=tmp_path / CERTIFICATE)
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    before = (tmp_path / KEY).read_bytes()
    again = make_certificate(tmp_path)
    assert again.returncode == 2
    assert "certs/ exists; remove it to write a new certificate" in again.stderr
    assert (tmp_path / KEY).read_bytes() == before


def test_incomplete_tls_and_missing_files_are_errors(own: Config) -> None:
    plain = own.path.read_text()
    own.path.write_text(f"{plain}certificate_file=certs/server.pem\n")
    with pytest.raises(ServingError, match="certificate_file alone; expected certificate_file and private_key_file"):
        read_config(own.path)
    own.path.write_text(f"{plain}certificate_file=certs/server.pem\nprivate_key_file=certs/server.key\n")
    run = run_subprocess(own, "serve")
    assert run.returncode == 1
    assert "certificate_file cannot be read; `make certs` writes one for testing" in run.stderr
    assert "Traceback" not in run.stderr
    expected = "certs/server.pem: No such file or directory; expected the server's certificate"
    assert expected in run_in_process(own, "models").stderr
