"""README and docs name every make target and every option, and none that does not exist; their commands run."""

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from digits_client import __main__ as digits_cli
from digits_client.client import DigitsClient
from evaluation import __main__ as evaluation_cli
from handler.protocol import WARNINGS
from monitoring import __main__ as monitoring_cli
from serving import __main__ as serving_cli
from serving.config import ROOT, read_config
from serving.config import Config as ServingConfig
from serving.local_management import LocalManagementClient
from serving.lock import stop
from tests.pictures import SMOKE
from tests.servers import configure_free_ports, wait_for
from training import __main__ as training_cli
from training.recipe import RECIPES, Config

README = (ROOT / "README.md").read_text()
REFERENCE = "".join((ROOT / "docs" / name).read_text() for name in ("reference.md", "client.md"))
PARSERS = [training_cli.parser(), serving_cli.parser(), evaluation_cli.make_parser(), monitoring_cli.make_parser()]
PARSERS += [digits_cli.make_parser()]


def commands() -> list[argparse.ArgumentParser]:
    actions = [action for parser in PARSERS for action in parser._actions]
    choices = [action.choices for action in actions if isinstance(action, argparse._SubParsersAction)]
    return [command for each in choices for command in each.values()]


def options() -> set[str]:
    return {word for parser in PARSERS + commands() for action in parser._actions for word in action.option_strings}


def test_every_make_target_is_in_the_readmes_table_and_no_other() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert set(re.findall(r"^\| `make ([a-z-]+)", README, re.MULTILINE)) == targets
    phony = re.search(r"^\.PHONY: (.*)$", makefile.replace("\\\n", ""), re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == targets


def test_every_command_and_option_is_in_the_reference_and_none_that_does_not_exist() -> None:
    known = options() - {"-h"}
    short = {option for option in known if not option.startswith("--")}
    assert known - short - set(re.findall(r"--[a-z][a-z-]+", REFERENCE)) == set()
    assert {option for option in short if f"`{option}`" not in REFERENCE} == set()
    assert set(re.findall(r"`(--[a-z][a-z-]+)`", REFERENCE + README)) <= known
    for command in commands():
        name = command.prog.split()[-1]
        assert re.search(rf"(`|training ){name}\b", REFERENCE), name


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


def test_every_address_in_the_readme_is_the_configurations() -> None:
    config = read_config()
    ports = {str(port) for _, port in config.ports().values()} | {monitoring_cli.ADDRESS.partition(":")[2]}
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", README + REFERENCE)) <= ports


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_warning_is_explained() -> None:
    explained = re.findall(r"^\| `([a-z_]+)` \| (?!`)", (ROOT / "docs" / "framing.md").read_text(), re.MULTILINE)
    assert tuple(explained) == WARNINGS


def test_every_metric_is_in_the_reference_with_its_labels_and_no_other(
    client: DigitsClient, management: LocalManagementClient
) -> None:
    for picture in (SMOKE[7], SMOKE[3]):
        client.predict(picture)
    wait_for(lambda: any(each.name == "digits_workers_ready" for each in management.status.read_metrics(False)))
    served = {
        re.sub("_(bucket|sum|count)$", "", each.name): frozenset(each.labels) - {"le"}
        for each in management.status.read_metrics(False)
    }
    listed = re.findall(r"^\| (`digits_.*?) \| (?:counter|gauge|histogram) \| (.*?) \|", REFERENCE, re.MULTILINE)
    documented = {
        name: frozenset(re.findall(r"`([a-z0-9_]+)`", labels))
        for names, labels in listed
        for name in re.findall(r"`(digits_[a-z_]+)`", names)
    }
    assert documented.pop("digits_drift_psi") == {"version", "feature"}  # not served until 500 pictures are read
    served.pop("digits_drift_psi", None)
    assert documented == served


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[tuple[Path, ServingConfig]]:
    """A checkout of its own, with this one's .venv, and ports that are free; `make` in it is the real one."""
    folder = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    free = configure_free_ports(tmp_path)
    (folder / "config.properties").write_text(with_ports(read_config().path.read_text(), free))
    config = read_config(folder / "config.properties")
    yield folder, config
    stop(config)


def with_ports(text: str, config: ServingConfig) -> str:
    """All at once: a new port may have the digits of an old one."""
    ports = {str(port): str(config.ports()[name][1]) for name, (_, port) in read_config().ports().items()}
    return re.sub(rf"\b({'|'.join(ports)})\b", lambda found: ports[found[0]], text)


def script(page: str) -> str:
    """The page's blocks for a shell and for Python, in order, as one script that ends with its first error."""
    fail = 'curl() { case "$*" in -sf*) command curl "$@" ;; *) command curl --fail-with-body "$@" ;; esac }'
    lines = ["set -euo pipefail", fail]
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", page, re.DOTALL):
        lines.append(block if language == "sh" else f".venv/bin/python - <<'END'\n{block}\nEND")
    return "\n".join(lines)


START = """```sh
nohup make serve > serve.log 2>&1 &
until curl -sf http://127.0.0.1:8083/ready; do sleep 1; done
```
"""
PAGES = {"README.md": START + README, "docs/operations.md": (ROOT / "docs" / "operations.md").read_text()}


@pytest.mark.skipif(not (ROOT / ".venv" / "installed").exists(), reason="needs the .venv that `make test` prepares")
def test_make_serve_archives_only_what_has_never_been_served(checkout: tuple[Path, ServingConfig]) -> None:
    folder, _ = checkout
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ARGS"))}

    def archives(*words: str) -> bool:
        run = ["make", "--dry-run", "serve", *words]
        told = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
        return "serving archive" in told

    assert archives()
    (folder / "model_store" / "digits-1.0.mar.sha256").touch()  # left behind by whoever removed the archive
    assert archives()
    (folder / "served.json").touch()
    assert not archives()
    assert archives("VERSION=1.1")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.skipif(not (ROOT / ".venv" / "installed").exists(), reason="needs the .venv that `make test` prepares")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_every_shell_block_runs_as_written(page: str, checkout: tuple[Path, ServingConfig]) -> None:
    """In order, in a fresh checkout; only the ports are others."""
    folder, config = checkout
    (folder / "blocks.sh").write_text(with_ports(script(PAGES[page]), config))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ARGS"))
    }  # `make test`'s
    run = subprocess.run(["bash", "blocks.sh"], cwd=folder, env=environment, capture_output=True, text=True)
    said = run.stdout + run.stderr + (folder / "serve.log").read_text()
    assert run.returncode == 0, said
    assert '"digit": 7' in run.stdout
    assert '"model_version": "1.1"' in run.stdout
    assert "Traceback" not in said
    if page == "docs/operations.md":
        assert "digits-1.1.mar: OK" in run.stdout
        assert len((folder / "digits.csv").read_text().splitlines()) == 11
        assert run.stdout.endswith("stopped\n")


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_dependency_is_pinned_exactly_none_is_cudas_and_its_licence_is_listed(name: str) -> None:
    listed = (ROOT / "docs" / "licences.md").read_text().lower().replace("_", "-")
    lines = (ROOT / name).read_text().splitlines()
    for pin in (line for line in lines if line and not line.startswith("#")):
        assert re.fullmatch(r"[a-z][a-z0-9-]*==[0-9.]+", pin)
        assert not pin.startswith(("nvidia", "cuda", "triton"))
        package, version = pin.split("==")
        assert re.search(rf"^\| {package} +\| {re.escape(version)}[ +]", listed, re.MULTILINE), pin
