"""The Makefile: how its variables are set and quoted, and how .venv is created."""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from serving.config import ROOT

MAKE = shutil.which("make") or "make"
TOOLS = ("awk", "cat", "chmod", "cp", "env", "find", "grep", "mkdir", "rm", "sed", "sh", "tail", "touch", "tr")
# Records the words of a command, one per line, and the Python variables in its environment.
RECORDER = """#!/bin/sh
{ printf '%s\\n' "$@"; echo; } >> calls
env | grep '^PYTHON' > environment
env | grep '^DIGITS_HOME=' > home
"""
# A Python of some version, with or without venv; the .venv that it creates has the recorder as its Python.
PYTHON = """#!/bin/sh
case "$*" in
*version_info*) echo {version} ;;
*ensurepip*) exit {without_venv} ;;
*"-m venv"*) mkdir -p .venv/bin && cp recorder .venv/bin/python && echo {version} > .venv/version ;;
esac
"""


class Checkout:
    """A folder with the Makefile, and with programs in place of Python that record how they are called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "programs"
        for name in ("Makefile", "config.properties", "requirements-reader.txt"):
            shutil.copy(ROOT / name, folder)
        (folder / "requirements.txt").write_text("torch==0.0.1\ntorchmetrics==1.9.0\ntorchvision==0.0.2\n")
        self.programs.mkdir()
        for tool in TOOLS:
            (self.programs / tool).symlink_to(shutil.which(tool) or tool)
        for name in ("recorder", ".venv/bin/python"):
            self.write_program(name, RECORDER)
        (folder / ".venv" / "installed").touch()

    def write_program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def write_python(self, name: str, version: str, has_venv: bool = True) -> None:
        self.write_program(f"programs/{name}", PYTHON.format(version=version, without_venv=int(not has_venv)))

    def make(self, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": str(self.programs), "HOME": str(self.folder)} | environment
        return subprocess.run([MAKE, *words], cwd=self.folder, env=environment, capture_output=True, text=True)

    def run(self, *words: str, **environment: str) -> list[list[str]]:
        """Return the words of every call of .venv's Python."""
        (self.folder / "calls").write_text("")
        made = self.make(*words, **environment)
        assert made.returncode == 0, made.stderr
        return [call.split("\n") for call in (self.folder / "calls").read_text().split("\n\n")[:-1]]

    def fail(self, *words: str, **environment: str) -> str:
        """Return the error line of a make that has run nothing."""
        made = self.make(*words, **environment)
        assert made.returncode == 2
        assert not (self.folder / "calls").exists()
        [line] = [line for line in made.stderr.splitlines() if not re.match(r"make: \*\*\* \[Makefile:\d+: ", line)]
        return line


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "a check'out"
    folder.mkdir()
    return Checkout(folder)


FOREIGN = {
    **dict.fromkeys(("VERSION", "OLD", "NEW"), "12 (bookworm)"),
    **dict.fromkeys(("ARGS", "IMAGES", "IN", "MODEL", "OUT", "PIP_ARGS"), "; touch run"),
    **dict.fromkeys(("DATA", "FROM", "IMAGE", "KIND", "MAX", "MIN", "PYTHON", "RUN", "TORCH_INDEX"), "foreign"),
}


@pytest.mark.parametrize("words", [(), ("--environment-overrides",)])
def test_the_environment_sets_no_variable(words: tuple[str, ...], checkout: Checkout) -> None:
    assert checkout.run(*words, "token", **FOREIGN) == [["-m", "serving", "token", "--kind", "inference"]]
    assert checkout.run(*words, "evaluate", **FOREIGN) == [["-m", "training", "evaluate", "--data", "mnist"]]
    archive = ["-m", "serving", "archive", "--version", "1.0"]
    assert checkout.run(*words, "serve", **FOREIGN) == [archive, ["-m", "serving", "serve"]]
    (checkout.folder / "calls").unlink()
    for target, name in (("register", "VERSION"), ("compare", "OLD"), ("scale", "MIN"), ("predict", "IMAGES")):
        assert re.search(rf"no {name}\b|no images", checkout.fail(*words, target, **FOREIGN))


def test_every_variable_of_the_makefile_is_tested_above() -> None:
    [listed] = re.findall(r"foreach name,([A-Z_ ]+),\$\(call set,", (ROOT / "Makefile").read_text())
    assert {*listed.split(), "TORCH_INDEX"} == FOREIGN.keys()


VALUES = (
    "a b",
    "a'b",
    'a"b',
    "1;touch run",
    "$(shell touch run)",
    "$$(touch run)",
    "`touch run`",
    "$HOME",
    "%",
    "é #",
    "\\",
)


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_one_word(value: str, checkout: Checkout) -> None:
    for words in (("token", "KIND"), ("train", "DATA"), ("explain", "IMAGE"), ("scale", "MIN")):
        assert value in checkout.run(words[0], f"{words[1]}={value}")[-1]
    assert not (checkout.folder / "run").exists()


@pytest.mark.parametrize("value", [*VALUES, "12 (bookworm)", "-1", "../1", "1,1"])
@pytest.mark.parametrize("name", ["VERSION", "OLD", "NEW", "MODEL"])
def test_a_version_or_model_is_checked_before_anything_runs(name: str, value: str, checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    line = checkout.fail("serve", f"{name}={value}")
    assert f"{name} is {value}; expected {'default or large' if name == 'MODEL' else 'letters, digits, dots'}" in line
    assert not (checkout.folder / "run").exists()


@pytest.mark.parametrize("name", FOREIGN)
def test_a_value_of_several_lines_is_rejected(name: str, checkout: Checkout) -> None:
    assert f"{name} has several lines" in checkout.fail("serve", f"{name}=1\n\ttouch run")


def test_words_are_split_as_a_shell_does(checkout: Checkout) -> None:
    (checkout.folder / "b1.png").touch()
    images = checkout.run("predict", "IMAGES='my 3.png' b*.png \"c.png\" d\\ e.png")[0][3:]
    assert images == ["my 3.png", "b1.png", "c.png", "d e.png"]
    assert checkout.run("status", "ARGS=-k 'a; $(b)' \"c (d)\"")[0][3:] == ["-k", "a; $(b)", "c (d)"]


RUN_BY_A_SHELL = ("; touch run", "a & b", "a | b", "$(touch run)", '"`touch run`"', "'a", "> run", "$HOME")
HIDDEN_BY_QUOTES = ('"\'" ; touch run ; "\'"', "'\\'; touch run; '\\'")


@pytest.mark.parametrize("value", RUN_BY_A_SHELL + HIDDEN_BY_QUOTES)
def test_words_that_a_shell_would_run_are_rejected(value: str, checkout: Checkout) -> None:
    for target, name in (("predict", "IMAGES"), ("status", "ARGS"), ("serve", "PIP_ARGS")):
        assert f"{name} is {value}; expected words" in checkout.fail(target, f"{name}={value}")
    assert not (checkout.folder / "run").exists()


def test_commands_do_not_see_pythons_variables(checkout: Checkout) -> None:
    names = ("PATH", "HOME", "SAFEPATH", "STARTUP", "OPTIMIZE", "WARNINGS", "INSPECT")
    checkout.run("status", **{f"PYTHON{name}": "foreign" for name in names})
    assert (checkout.folder / "environment").read_text() == "PYTHONUTF8=1\n"


@pytest.mark.parametrize("home", ["", "a $home's"])
@pytest.mark.parametrize("store", ["model_store", "/absolute"])
def test_archives_and_state_are_found_where_digits_home_says(home: str, store: str, checkout: Checkout) -> None:
    environment = {"DIGITS_HOME": home} if home else {}
    home_folder = checkout.folder / home
    store_folder = checkout.folder / "absolute store" if store == "/absolute" else home_folder / store
    config = checkout.folder / "config.properties"
    line = f"model_store{' = ' if home else ' '}{store_folder if store == '/absolute' else store} "
    config.write_text(re.sub("(?m)^model_store.*$", lambda _: line, config.read_text()))
    store_folder.mkdir(parents=True)
    for path in (checkout.folder / "handler", home_folder / "logs"):
        path.mkdir(parents=True)
    serve, archive = ["-m", "serving", "serve"], ["-m", "serving", "archive", "--version", "1.0"]
    assert checkout.run("serve", **environment) == [archive, serve]
    if home:
        assert checkout.run("serve", f"DIGITS_HOME={home}") == [archive, serve]
        assert (checkout.folder / "home").read_text() == f"DIGITS_HOME={home}\n"
    for name in ("digits-1.0.mar", "digits-1.0.mar.sha256", "other.mar"):
        (store_folder / name).touch()
    assert checkout.run("serve", **environment) == [serve]
    (store_folder / "digits-1.0.mar").unlink()
    (home_folder / "served.json").touch()
    assert checkout.run("serve", **environment) == [serve]
    assert checkout.make("clean", **environment).returncode == 0
    assert [path.name for path in store_folder.iterdir()] == ["other.mar"]
    assert not any((home_folder / name).exists() for name in ("logs", "served.json"))


PYTHONS = {"python3.11": "2.7", "python3.12": "3.12", "python3.13": "3.13", "python3": "3.14", "my python": "3.11"}


@pytest.mark.parametrize(
    ("words", "version"), [([], "3.12"), (["PYTHON=python3.13"], "3.13"), (["PYTHON=my python"], "3.11")]
)
def test_the_first_supported_python_is_taken(words: list[str], version: str, checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    for name, printed in PYTHONS.items():
        checkout.write_python(name, printed)
    assert checkout.run("status", *words)[-1] == ["-m", "serving", "status"]
    assert (checkout.folder / ".venv" / "version").read_text().strip() == version


@pytest.mark.parametrize("words", [(), ("PYTHON=python3",)])
def test_without_a_supported_python_make_names_the_ways_to_get_one(words: tuple[str, ...], checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    checkout.write_python("python3", "3.9")
    line = checkout.fail("status", *words)
    assert line.startswith("Python 3.11, 3.12 or 3.13 is needed; tried ")
    for part in ("python3 is 3.9", "apt install", "python.org", "uv python install", "pyenv install", "make PYTHON="):
        assert part in line
    assert not (checkout.folder / ".venv").exists()


def test_a_python_without_venv_names_debians_package(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    checkout.write_python("python3", "3.13", has_venv=False)
    assert "python3 has no venv: on Debian or Ubuntu, apt install python3.13-venv" in checkout.fail("status")
    checkout.write_python("python3.12", "3.12")
    checkout.run("status")


INDEX = "https://download.pytorch.org/whl/cpu"
PINS = ["torch==0.0.1", "torchvision==0.0.2"]


OWN = "http://own/$x'y"
CASES = [([], False, INDEX), ([], True, ""), (["TORCH_INDEX="], False, ""), ([f"TORCH_INDEX={OWN}"], True, OWN)]


@pytest.mark.parametrize(("words", "has_gpu", "index"), CASES)
def test_pytorchs_cpu_builds_come_first(words: list[str], has_gpu: bool, index: str, checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    checkout.write_python("python3", "3.11")
    checkout.write_program("programs/nvidia-smi", f"#!/bin/sh\nexit {int(not has_gpu)}\n")
    *first, last, _ = checkout.run("status", "PIP_ARGS=--proxy 'a b'", *words)
    install = ["-m", "pip", "install", "--proxy", "a b"]
    options = ["--disable-pip-version-check", "--no-deps", "--retries", "1", "--timeout", "5", "--index-url", index]
    assert first == ([[*install, *options, *PINS]] if index else [])
    assert last == [*install, "-r", "requirements.txt"]


@pytest.fixture
def packages(checkout: Checkout) -> Path:
    """The folder where the real pip of .venv installs packages that have an index."""
    venv.create(checkout.folder / "target")
    pip = f"exec '{sys.executable}' -m pip --python target \"$@\""
    checkout.write_program("recorder", f'{RECORDER}case "$*" in\n*--index-url*) shift 2; {pip} ;;\nesac\n')
    checkout.write_python("python3.11", "3.11")
    shutil.rmtree(checkout.folder / ".venv")
    return next((checkout.folder / "target" / "lib").glob("python3*")) / "site-packages"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A server of empty wheels of torch and torchvision, as PyTorch's is laid out."""
    for pin in PINS:
        name, version = pin.split("==")
        wheel = tmp_path / "index" / name / f"{name}-{version}+cpu-py3-none-any.whl"
        wheel.parent.mkdir(parents=True)
        (wheel.parent / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
        metadata = f"{name}-{version}+cpu.dist-info"
        with ZipFile(wheel, "w") as file:
            file.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}+cpu\n")
            file.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{metadata}/RECORD", "")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_pip_takes_pytorch_from_its_index(checkout: Checkout, packages: Path, index: str) -> None:
    made = checkout.make("status", f"TORCH_INDEX={index}", PIP_CONFIG_FILE=os.devnull)
    assert made.returncode == 0, made.stderr
    found = {path.name for path in packages.glob("torch*")}
    assert found == {f"{pin.replace('==', '-')}+cpu.dist-info" for pin in PINS}
    assert "note:" not in made.stderr


def test_where_the_index_cannot_be_reached_pypis_builds_follow_within_20_s(checkout: Checkout, packages: Path) -> None:
    start, url = time.monotonic(), "http://127.0.0.1:1/whl"  # a closed port; without a response, pip waits longer
    made = checkout.make("status", f"TORCH_INDEX={url}", PIP_CONFIG_FILE=os.devnull)
    assert time.monotonic() - start < 20
    assert made.returncode == 0, made.stderr
    assert f"note: cannot install PyTorch from {url}; using PyPI's builds" in made.stderr
    assert "-r\nrequirements.txt" in (checkout.folder / "calls").read_text()
    assert not list(packages.glob("torch*"))
