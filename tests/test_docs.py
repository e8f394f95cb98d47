"""README and docs name every make target and every option, and none that does not exist; their commands run."""

import argparse
import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from evaluation import __main__ as evaluation_cli
from handler.preprocessing import WARNINGS
from serving import __main__ as serving_cli
from serving.archive import build_archive
from serving.config import ROOT, on_free_ports, read_config
from serving.config import Config as ServingConfig
from serving.supervisor import running
from training import __main__ as training_cli
from training.train import RECIPES, Config

README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PARSERS = [training_cli.parser(), serving_cli.parser(), evaluation_cli.parser()]


def subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from subparsers(each)


def options() -> set[str]:
    commands = [command for parser in PARSERS for command in subparsers(parser)]
    return {word for command in commands for action in command._actions for word in action.option_strings}


def test_every_make_target_is_in_the_readmes_table_and_no_other() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert set(re.findall(r"^\| `make ([a-z-]+)", README, re.MULTILINE)) == targets
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == targets


def test_make_alone_prints_every_target() -> None:
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([a-z-]+)", listed, re.MULTILINE)) == set(
        re.findall(r"^\| `make ([a-z-]+)", README, re.MULTILINE)
    )


def test_every_option_is_in_the_reference_and_none_that_does_not_exist() -> None:
    known = options() - {"-h"}
    assert known - set(re.findall(r"--[a-z][a-z-]+", REFERENCE)) == set()
    own_words = set(re.findall(r"`(--[a-z][a-z-]+)`", REFERENCE + README))
    assert own_words <= known


def test_the_references_defaults_are_the_recipes() -> None:
    rows = [line.split("|")[1:-1] for line in REFERENCE.splitlines() if line.startswith("| `-")]
    cells = {re.findall(r"[a-z-]+", row[0])[0]: [cell.strip(" `") for cell in row[2:]] for row in rows if len(row) == 4}
    for field in dataclasses.fields(Config):
        if field.name != "recipe":
            values = [getattr(recipe, field.name) for recipe in RECIPES.values()]
            assert cells["--" + field.name.replace("_", "-")] == [shown(value) for value in values]


def shown(value: object) -> str:
    """A default as the reference writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_command_is_in_the_reference() -> None:
    for parser in PARSERS:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert all(re.search(rf"(`|training ){command}\b", REFERENCE) for command in action.choices)


def test_every_address_in_the_readme_is_the_configurations() -> None:
    config = read_config()
    ports = {str(port) for _, port in config.ports().values()}
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", README + REFERENCE)) <= ports


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_warning_is_explained() -> None:
    explained = re.findall(r"^\| `([a-z_]+)` \| (?!`)", (ROOT / "docs" / "framing.md").read_text(), re.MULTILINE)
    assert tuple(explained) == WARNINGS


def shell_blocks() -> list[str]:
    """The README's blocks that ask a running server."""
    return [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "curl" in block]


MAKE = """
make() {{
  case "$*" in
    "-s token") {serving} token ;;
    "-s token KIND="*) {serving} token --kind "${{3#KIND=}}" ;;
    "archive VERSION="*) {serving} archive --version "${{2#VERSION=}}" ;;
    *) echo "the test does not know: make $*" >&2; return 1 ;;
  esac
}}
curl() {{ command curl --fail-with-body "$@"; }}
set -euo pipefail
"""


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServingConfig]:
    """A server for one test, which may remove its versions."""
    build_archive("1.0", tmp_path / "model_store")
    config = on_free_ports(tmp_path, tmp_path / "model_store")
    with running(config):
        yield config


def test_the_readmes_curl_lines_run_as_written_against_a_server(own_server: ServingConfig, tmp_path: Path) -> None:
    """All in order; only the ports are the test server's, and `make` asks that server."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    script = MAKE.format(serving=f"{sys.executable} -m serving --config {own_server.path}") + "\n".join(shell_blocks())
    for api in ("inference", "management", "metrics", "supervisor"):
        script = script.replace(urlsplit(read_config().url(api)).netloc, urlsplit(own_server.url(api)).netloc)
    (tmp_path / "readme.sh").write_text(script)
    run = subprocess.run(["bash", str(tmp_path / "readme.sh")], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"digit": 7' in run.stdout
    assert "ts_inference_requests_total" in run.stdout
    assert '"model_version": "1.1"' in run.stdout


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_dependency_is_pinned_exactly_and_none_is_cudas(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*==[0-9.]+", pin) for pin in pins)
    assert not [pin for pin in pins if pin.startswith(("nvidia", "cuda", "triton"))]
