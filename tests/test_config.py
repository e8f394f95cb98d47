"""serving/config.py: properties are read as Java reads them; invalid values are errors that name them."""

import re
from pathlib import Path

import pytest

from serving.config import Config, ServingError, read_config


def read_text(folder: Path, text: str, encoding: str = "utf-8") -> Config:
    path = folder / "config.properties"
    path.write_bytes(text.encode(encoding))
    return read_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "allowed_urls=^$",
        "allowed_urls: ^$",
        "allowed_urls ^$",
        "\t allowed_urls\t=  ^$  ",
        "allowed_urls=\\\n    ^$",
        "allowed_urls=\\\r\n    ^$\r\n",
        "! allowed_urls=.*\n# allowed_urls=.*\nallowed\\u005furls=\\u005e$",
    ],
)
def test_every_form_of_a_property_is_read(text: str, tmp_path: Path) -> None:
    properties = read_text(tmp_path, text).properties
    assert properties["allowed_urls"] == "^$"
    assert read_text(tmp_path, "").properties | {"allowed_urls": "^$"} == properties


def test_escapes_and_separators_in_values_are_kept(tmp_path: Path) -> None:
    properties = read_text(tmp_path, "vmargs=-Da=b:c -Dd=C\\:\\\\e\nallowed_urls=s3\\\\..*#1!\n").properties
    assert properties["vmargs"] == "-Da=b:c -Dd=C:\\e"
    assert properties["allowed_urls"] == "s3\\..*#1!"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_any_encoding_of_comments_and_values_is_read(encoding: str, tmp_path: Path) -> None:
    config = read_text(tmp_path, "# größe\nmodel_store=größe", encoding)
    assert config.model_store == tmp_path / "größe"


def test_every_property_has_a_default(tmp_path: Path) -> None:
    config = read_text(tmp_path, "")
    apis = ("inference", "management", "metrics", "supervisor", "grpc_inference", "grpc_management")
    ports = (8080, 8081, 8082, 8083, 7070, 7071)
    assert config.get_ports() == {api: ("127.0.0.1", port) for api, port in zip(apis, ports, strict=True)}
    assert config.model_store == tmp_path / "model_store"


def test_ipv6_addresses_are_read_with_brackets_and_without(tmp_path: Path) -> None:
    text = "inference_address=http://[::1]:8080\ngrpc_inference_address=::1\ngrpc_management_address=[::1]"
    ports = read_text(tmp_path, text).get_ports()
    assert [ports[api][0] for api in ("inference", "grpc_inference", "grpc_management")] == ["::1"] * 3


ADDRESSES = ["unix:/tmp/a", "http://127.0.0.1", "http://127.0.0.1:80/", "127.0.0.1:80", "http://:80", "http://[::z]:80"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a=1\nmodel_store=\n", "model_store has no value"),
        ("a=1\nmodel_store = \\\n\n", "model_store has no value"),
        ("job_queue_size", "job_queue_size has no value"),
        ("a=\\u12", ".*u12; expected the format of Java"),
        *(
            (f"grpc_inference_port={port}", f"grpc_inference.* is .*{port}; expected")
            for port in ("abc", "99999", "-1")
        ),
        *((f"{api}_address={text}", re.escape(text)) for text in ADDRESSES for api in ("inference", "supervisor")),
        ("request_log_level=loud", "request_log_level is loud; expected info, warning, error, off"),
        *((f"token_expiration_min={value}", f"is {value}; expected minutes") for value in ("abc", "0.5", "1.2.3")),
        *((f"max_request_size={value}", f"is {value}; expected bytes") for value in ("0", "16M")),
        ("max_response_size=100", "is 100; expected bytes, such as 6553500, at least 65536"),
        ("certificate_file=a", "certificate_file alone; expected certificate_file and private_key_file"),
    ],
)
def test_an_invalid_value_is_an_error_that_names_it(text: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=f"config.properties.*{error}") as caught:
        read_text(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"missing: No such file.*; expected TorchServe's configuration"):
        read_config(tmp_path / "missing")
    with pytest.raises(ServingError, match="Is a directory; expected TorchServe's configuration"):
        read_config(tmp_path)
    with pytest.raises(ServingError, match="save it as UTF-8"):
        read_text(tmp_path, "a=b", "utf-16")


def test_all_written_files_are_in_digits_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for home, expected in (("", tmp_path), (str(tmp_path / "a"), tmp_path / "a"), ("b", tmp_path / "b")):
        monkeypatch.setenv("DIGITS_HOME", home)
        config = read_text(tmp_path, "certificate_file=c.pem\nprivate_key_file=c.key")
        written = (config.key_file, config.state_file, config.lock_file, config.logs, config.model_store)
        assert {path.parent for path in written} == {expected} == {config.home}
        assert config.request_log.is_relative_to(expected)
        assert config.worker_metrics.is_relative_to(expected)
        assert config.certificate == tmp_path / "c.pem"


def test_everything_listens_on_loopback_only() -> None:
    assert {host for host, _ in read_config().get_ports().values()} == {"127.0.0.1"}
