"""The client's wheel, installed in a new environment outside the checkout."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from digits_client.transport import read_token
from serving.config import ROOT, Config

MAX_INSTALLED_BYTES = 60 * 2**20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE", "docs/how-to/client.md", "handler/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    shutil.copytree(ROOT / "digits_client", folder / "digits_client")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder / "dist"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    [path] = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with only the wheel and its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin" / "pip", "install", wheel], check=True, capture_output=True, cwd=folder)
    return folder / "bin"


def test_wheel_contains_only_the_client(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        folders = {name.split("/")[0] for name in archive.namelist()}
        assert "digits_client/py.typed" in archive.namelist()
    assert {name for name in folders if not name.endswith(".dist-info")} == {"digits_client"}


def test_installation_is_small(binaries: Path) -> None:
    installed = sum(path.stat().st_size for path in binaries.parent.rglob("*") if path.is_file())
    print(f"{installed / 2**20:.0f} MiB with pip")
    assert installed <= MAX_INSTALLED_BYTES


def test_installed_client_predicts_by_url_and_token(server: Config, binaries: Path, tmp_path: Path) -> None:
    token = read_token(server.key_file, "inference")
    code = f"""
from digits_client import DigitsClient
with DigitsClient(url={server.get_url("inference")!r}, token={token!r}) as client:
    print(client.predict({str(ROOT / "handler/smoke/7.png")!r}).digit)
"""
    run = subprocess.run([binaries / "python", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (run.stdout, run.stderr) == ("7\n", "")


def test_installed_command_predicts_and_names_missing_extras(server: Config, binaries: Path, tmp_path: Path) -> None:
    environment = os.environ | {"DIGITS_INFERENCE_TOKEN": read_token(server.key_file, "inference")}

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [str(binaries / "digits"), *words, "--url", server.get_url("inference")]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    image = str(ROOT / "handler/smoke/3.png")
    predicted = run("predict", image)
    assert (predicted.returncode, predicted.stdout.splitlines()[1].split(",")[:2]) == (0, [image, "3"])
    explained = run("explain", image)
    assert (explained.returncode, explained.stdout) == (1, "")
    assert "drawing needs" in explained.stderr
    assert "digits-client[plot]" in explained.stderr
    assert "usage: digits" in subprocess.run([binaries / "digits", "--help"], capture_output=True, text=True).stdout
