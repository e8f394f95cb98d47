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


PORT, MINUTES, BYTES = "grpc_inference_port", "token_expiration_min", "max_request_size"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        *((f"{PORT}=7070", f"{PORT}={port}", "expected") for port in ("abc", "99999")),
        (PORT, "#", f"no line {PORT}="),
        ("level=info", "level=loud", "request_log_level is loud; expected info, warning, error, off"),
        *(("# end", f"{MINUTES}={each}", f"{MINUTES} is {each}; expected minutes") for each in ("abc", "0", "1.2.3")),
        *(("# end", f"{BYTES}={each}", f"{BYTES} is {each}; expected bytes") for each in ("", "0", "16M")),
    ],
)
def test_an_invalid_value_is_named(old: str, new: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=error):
        read_changed(tmp_path, old, new)


def test_everything_listens_on_loopback_alone() -> None:
    assert {host for host, _ in read_config().ports().values()} == {"127.0.0.1"}
