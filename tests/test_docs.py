"""Docs name only existing make targets, commands, metrics, warnings, links; their shell and Python blocks run."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from digits_client.client import DigitsClient
from handler.protocol import WARNINGS
from monitoring.__main__ import ADDRESS as PROMETHEUS_ADDRESS
from serving.config import ROOT, read_config
from serving.config import Config as ServingConfig
from serving.local_management import LocalManagementClient
from serving.lock import stop_server
from tests.images import SMOKE
from tests.servers import configure_free_ports, wait_for

DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]


def test_make_help_prints_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    printed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([a-z-]+) +\S", printed, re.MULTILINE)) == targets
    phony = re.search(r"^\.PHONY: (.*)$", makefile.replace("\\\n", ""), re.MULTILINE)
    assert phony is not None
    assert set(phony.group(1).split()) == targets


def test_docs_name_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            assert set(re.findall(r"(?:`|^|\()make (?:-s )?([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets, page


def test_every_address_in_the_docs_is_configured() -> None:
    nginx, forwarded = {"8088"}, {"9000"}
    ports = {str(port) for _, port in read_config().get_ports().values()} | {PROMETHEUS_ADDRESS.partition(":")[2]}
    for page in PAGES:
        assert set(re.findall(r"(?:127\.0\.0\.1|localhost):(\d+)", page.read_text())) <= ports | nginx | forwarded, page


def test_every_link_in_the_docs_has_a_target() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_warning_is_explained() -> None:
    explained = re.findall(r"^\| `([a-z_]+)` \| (?!`)", (DOCS / "explanation" / "framing.md").read_text(), re.MULTILINE)
    assert tuple(explained) == WARNINGS


def test_metrics_page_has_every_metric_with_its_labels_and_no_other(
    client: DigitsClient, management: LocalManagementClient
) -> None:
    for image in (SMOKE[7], SMOKE[3]):
        client.predict(image)
    wait_for(lambda: any(sample.name == "digits_workers_ready" for sample in management.status.read_metrics(False)))
    exported = {
        re.sub("_(bucket|sum|count)$", "", sample.name): frozenset(sample.labels) - {"le"}
        for sample in management.status.read_metrics(False)
    }
    page = (DOCS / "reference" / "metrics.md").read_text()
    listed = re.findall(r"^\| (`digits_.*?) \| (?:counter|gauge|histogram) \| (.*?) ?\|", page, re.MULTILINE)
    documented = {
        name: frozenset(re.findall(r"`([a-z0-9_]+)`", labels))
        for names, labels in listed
        for name in re.findall(r"`(digits_[a-z_]+)`", names)
    }
    assert documented.pop("digits_drift_psi") == {"version", "feature"}  # absent before 500 images
    exported.pop("digits_drift_psi", None)
    assert documented == exported


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[tuple[Path, ServingConfig]]:
    """A copy of the checkout with this one's .venv and free ports, for real calls of `make`."""
    folder = tmp_path / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    free = configure_free_ports(tmp_path)
    (folder / "config.properties").write_text(replace_ports(read_config().path.read_text(), free))
    config = read_config(folder / "config.properties")
    yield folder, config
    stop_server(config)


def replace_ports(text: str, config: ServingConfig) -> str:
    """Replace all ports in one pass, since a new port may equal an old one."""
    ports = {str(port): str(config.get_ports()[name][1]) for name, (_, port) in read_config().get_ports().items()}
    return re.sub(rf"\b({'|'.join(ports)})\b", lambda found: ports[found[0]], text)


def make_script(page: str) -> str:
    """Return the page's blocks `sh` and `python`, in order, as one script that ends with its first error.

    Blocks that a test cannot run, such as `apt install`, are `bash`.
    """
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
ARCHIVE = "```sh\nmake archive VERSION=1.1\n```\n"
BEFORE = {"README.md": START, "docs/how-to/deploy.md": "", "docs/how-to/client.md": START + ARCHIVE}
PRINTED = {
    "README.md": ('"digit": 7', '"model_version": "2.0"'),
    "docs/how-to/deploy.md": ('"digit": 7', '"model_version": "2.0"', "digits-2.0.mar: OK"),
    "docs/how-to/client.md": ("7\nPrediction(digit=1, ", "Prediction(digit=2, "),
}


@pytest.mark.skipif(not (ROOT / ".venv" / "installed").exists(), reason="needs the .venv that `make test` prepares")
def test_make_serve_archives_only_what_has_never_been_served(checkout: tuple[Path, ServingConfig]) -> None:
    folder, _ = checkout
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ARGS"))}

    def archives(*words: str) -> bool:
        run = ["make", "--dry-run", "serve", *words]
        output = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
        return "serving archive" in output

    assert archives()
    (folder / "model_store" / "digits-1.0.mar.sha256").touch()  # its archive was removed
    assert archives()
    (folder / "served.json").touch()
    assert not archives()
    assert archives("VERSION=1.1")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.skipif(not (ROOT / ".venv" / "installed").exists(), reason="needs the .venv that `make test` prepares")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", BEFORE)
def test_every_shell_block_runs_as_written(page: str, checkout: tuple[Path, ServingConfig]) -> None:
    """Run the blocks in order in a fresh checkout; only the ports are others."""
    folder, config = checkout
    (folder / "blocks.sh").write_text(replace_ports(make_script(BEFORE[page] + (ROOT / page).read_text()), config))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ARGS"))
    }  # `make test`'s
    run = subprocess.run(["bash", "blocks.sh"], cwd=folder, env=environment, capture_output=True, text=True)
    output = run.stdout + run.stderr + (folder / "serve.log").read_text()
    assert run.returncode == 0, output
    assert not [text for text in PRINTED[page] if text not in run.stdout], output
    assert "Traceback" not in output
    if page == "docs/how-to/deploy.md":
        assert len((folder / "digits.csv").read_text().splitlines()) == 11
        assert run.stdout.endswith("stopped\n")


def read_pins(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r "))]


@pytest.mark.parametrize("name", [f"requirements{part}.txt" for part in ("", "-reader", "-bulk", "-dev", "-docs")])
def test_every_dependency_is_pinned_exactly_and_none_is_cudas(name: str) -> None:
    for pin in read_pins(name):
        assert re.fullmatch(r"[a-z][a-z0-9-]*==[0-9.]+", pin)
        assert not pin.startswith(("nvidia", "cuda", "triton"))


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-reader.txt", "requirements-dev.txt"]
)  # `make licences` lists what these install
def test_licence_of_every_dependency_is_listed(name: str) -> None:
    listed = (DOCS / "licences.md").read_text().lower().replace("_", "-")
    for pin in read_pins(name):
        package, version = pin.split("==")
        assert re.search(rf"^\| {package} +\| {re.escape(version)}[ +]", listed, re.MULTILINE), pin
