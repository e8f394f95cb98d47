"""serving/config.py: values that cannot be right are named."""

from pathlib import Path

import pytest

from serving.config import ROOT, Config, ServingError, read_config


def read_changed(folder: Path, old: str, new: str) -> Config:
    """Read the project's configuration with text replaced; a later line wins over an earlier one."""
    text = (ROOT / "config.properties").read_text() + "\n# end"
    assert old in text
    path = folder / "config.properties"
    path.write_text(text.replace(old, new))
    return read_config(path)


@pytest.mark.parametrize("wrong", ["grpc_inference_port=abc", "grpc_inference_port=99999"])
def test_an_invalid_port_is_named(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="expected"):
        read_changed(tmp_path, "grpc_inference_port=7070", wrong)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *(("token_expiration_min", minutes, "minutes") for minutes in ("abc", "0", "-5", "1.2.3")),
        *(("max_request_size", size, "bytes") for size in ("", "0", "1.5", "16M")),
    ],
)
def test_an_invalid_number_is_named(key: str, value: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=f"{key} is {value}; expected {expected}"):
        read_changed(tmp_path, "# end", f"{key}={value}")


def test_a_missing_address_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="no line grpc_inference_port="):
        read_changed(tmp_path, "grpc_inference_port", "#")


def test_an_invalid_log_level_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="request_log_level is loud; expected info, warning, error, off"):
        read_changed(tmp_path, "request_log_level=info", "request_log_level=loud")


def test_everything_listens_on_loopback_alone() -> None:
    assert {host for host, _ in read_config().ports().values()} == {"127.0.0.1"}
