"""monitoring/: every query of the dashboard selects a metric that exists, and a real Prometheus has data for it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer, SimpleHTTPRequestHandler
from itertools import combinations
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
import yaml
from playwright.sync_api import Page

from common.command_line import run_command
from monitoring.__main__ import parser
from monitoring.api import Prometheus
from monitoring.dashboard import DASHBOARD, read_panels
from monitoring.process import TEMPLATE, fill_template
from serving.client import DigitsClient
from serving.config import ROOT, Config
from tests.browser import launch_chromium, needs_chromium
from tests.pictures import SEVENS, SMOKE, bad_pictures
from tests.servers import configure_free_ports, serving_client, wait_for, with_archives
from tests.test_metrics_truth import rejected

MONITORING = ROOT / "monitoring"
FILE: dict[str, Any] = json.loads(DASHBOARD.read_text())
PANELS = read_panels()
PROMETHEUS_OWN = {"up", "ALERTS"}
NOT_METRICS = re.compile(r'\{[^}]*\}|"[^"]*"|\[[^]]*\]|\b(by|on|group_left)\s*\([^)]*\)|\bor\b')


def names(query: str) -> set[str]:
    """Return the names that a query selects: every word that is no function."""
    return set(re.findall(r"\b[a-zA-Z_][\w:]*\b(?!\s*\()", NOT_METRICS.sub(" ", query)))


def documented() -> set[str]:
    """Return every metric of the reference's table, for a histogram its three series."""
    found: set[str] = set()
    for cell, kind in re.findall(r"^\| (`digits_[^|]*) \| (\w+) \|", (ROOT / "docs/reference.md").read_text(), re.M):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + suffix for name in re.findall(r"`(\w+)`", cell) for suffix in suffixes}
    return found


def recorded() -> set[str]:
    groups = yaml.safe_load((MONITORING / "rules" / "recording.yml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


def test_names_of_a_query_are_its_metrics_alone() -> None:
    query = 'sum by (le) (rate(a_bucket{b="c"}[1m])) / on (d) group_left (e) (f:g:h > 0) or on () vector(1e3)'
    assert names(query) == {"a_bucket", "f:g:h"}


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in FILE["panels"]}) == len(FILE["panels"])
    places = [panel["gridPos"] for panel in FILE["panels"]]
    assert not [pair for pair in combinations(places, 2) if overlap(*pair)]
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_every_query_selects_a_recorded_or_a_documented_metric() -> None:
    selected = {name for panel in PANELS for query in panel.queries for name in names(query)}
    assert len(selected) > 20
    assert selected <= documented() | recorded() | PROMETHEUS_OWN


def test_every_variable_of_a_query_is_known() -> None:
    assert not [query for panel in PANELS for query in panel.queries if "$" in query]
    variables = {each["name"] for each in FILE["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(FILE["panels"])))
    assert used == variables == {"datasource", "server", "version"}


def test_every_description_names_a_section_that_is_there() -> None:
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs/operations.md").read_text(), re.M)
    there = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for panel in PANELS:
        named = re.search(r"docs/operations\.md#([\w-]+)\.$", panel.description)
        assert named is not None, panel.title
        assert named.group(1) in there, panel.title


def test_grafana_finds_the_dashboards_data_where_prometheus_listens() -> None:
    provisioned = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/digits.yml").read_text())
    assert [each["url"] for each in provisioned["datasources"]] == ["http://127.0.0.1:9090"]
    providers = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/digits.yml").read_text())["providers"]
    assert [each["type"] for each in providers] == ["file"]


def test_targets_come_from_the_configuration_and_all_else_from_the_template(tmp_path: Path) -> None:
    config = configure_free_ports(tmp_path)
    template = yaml.safe_load(TEMPLATE.read_text())
    other = {"targets": ["other:8083"], "labels": {"server": "other"}}
    template["scrape_configs"][0]["static_configs"] += [other, {"targets": ["nameless:8083"]}]
    node = {"job_name": "node", "static_configs": [{"targets": ["127.0.0.1:9100"], "labels": {"server": "local"}}]}
    template["scrape_configs"].append(node)
    made = fill_template(template, config)
    jobs = {job["job_name"]: job["static_configs"] for job in made["scrape_configs"]}
    assert [f"http://{jobs['digits'][0]['targets'][0]}"] == [config.url("supervisor")]
    assert [f"http://{jobs['torchserve'][0]['targets'][0]}"] == [config.url("metrics")]
    assert jobs["digits"][1:] == [other, {"targets": ["nameless:8083"]}]
    assert made["scrape_configs"][-1] == node
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in made["rule_files"])
    assert made["global"] == template["global"]


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """Write a program `prometheus` that ends at once with code 3; return its folder."""
    program = tmp_path / "bin" / "prometheus"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    return program.parent


def start(config: Config, address: str) -> list[str]:
    return [sys.executable, "-m", "monitoring", "--config", str(config.path), "start", "--address", address]


def error_of_start(tmp_path: Path, path: Path, address: str) -> str:
    """Run `start` with this PATH and return its error, which is one line."""
    command, environment = start(configure_free_ports(tmp_path), address), os.environ | {"PATH": str(path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_without_prometheus_it_says_how_to_get_it(tmp_path: Path) -> None:
    error = error_of_start(tmp_path, tmp_path, free_address())
    assert "apt-get install prometheus" in error
    assert "https://prometheus.io/download/" in error


def test_a_taken_port_is_named(tmp_path: Path, stub: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {address}: Address already in use" in error_of_start(tmp_path, stub, address)


@pytest.mark.parametrize("address", ["9090", "127.0.0.1", "127.0.0.1:port", "127.0.0.1:99999"])
def test_what_is_no_address_is_named(tmp_path: Path, stub: Path, address: str) -> None:
    assert f"--address is {address}" in error_of_start(tmp_path, stub, address)


def test_a_prometheus_that_ends_is_no_success(tmp_path: Path, stub: Path) -> None:
    assert "ended by itself, with code 3" in error_of_start(tmp_path, stub, free_address())


def check(address: str) -> int:
    return run_command(parser(), ["check", "--address", address])


def test_check_without_prometheus_says_what_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(free_address()) == 1
    assert "`python -m monitoring start`" in capsys.readouterr().err


def test_check_names_a_server_that_is_no_prometheus_and_uses_no_proxy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{free_address()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        assert check(f"127.0.0.1:{other.server_port}") == 1
        other.shutdown()
    assert "does not answer as Prometheus does" in capsys.readouterr().err


@contextmanager
def monitored(config: Config, address: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `start` and yield once it has printed that Prometheus listens."""
    process = subprocess.Popen(start(config, address), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert f"http://{address}" in lines[0]
        assert all(config.url(api).removeprefix("http://") in lines[1] for api in ("supervisor", "metrics"))
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def send_digits(client: DigitsClient, seconds: float) -> None:
    """Send as many images as drift needs, and more until the seconds are over."""
    deadline = time.monotonic() + seconds
    list(client.predict_many([SMOKE[number % 10] for number in range(600)], connections=2))
    while time.monotonic() < deadline:
        client.predict(SMOKE[7])
        time.sleep(0.02)


def send_odd_images(client: DigitsClient) -> None:
    """Send images with warnings, with errors and one that is rejected; explain one."""
    bad = bad_pictures()
    odd = [SEVENS["dark on light"](), rejected(), bad["blank white"].body, bad["text"].body, bad["header bomb"].body]
    for picture in [*odd, *SMOKE.values()]:
        next(client.predict_many([picture], connections=1))
    client.explain(SMOKE[7])


def show_versions(page: Page, address: str, path: Path) -> None:
    """Take a screenshot of Prometheus' graph of requests by version, on the pages that Debian's package has."""
    page.set_viewport_size({"width": 1100, "height": 860})
    query = "g0.expr=server_version:digits_requests:rate1m&g0.tab=0&g0.range_input=5m"
    page.goto(f"http://{address}/classic/graph?{query}")
    page.locator(".legend .line").first.wait_for()
    page.screenshot(path=path)


@pytest.mark.slow
@needs_chromium
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)")
@pytest.mark.timeout(400)
def test_every_panel_has_data_beside_a_server_with_traffic(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make test ARGS="tests/test_monitoring.py -m slow --screenshots docs"` writes docs/prometheus.png."""
    shown = request.config.getoption("--screenshots")
    config, address = with_archives(tmp_path, "1.0", "1.1"), free_address()
    with serving_client(config) as (_, client), monitored(config, address) as process:
        wait_for(lambda: Prometheus(address).has_data('up{job="digits"} == 1', 1))
        assert check(address) == 1
        assert "no data: Drift: " in capsys.readouterr().out
        send_digits(client, 90 if shown else 0)
        send_odd_images(client)
        client.register("digits-1.1.mar")
        client.promote("1.1")
        send_digits(client, 90 if shown else 0)
        wait_for(lambda: check(address) == 0)
        capsys.readouterr()
        assert check(address) == 0
        assert capsys.readouterr().out == ""
        with launch_chromium() as browser:
            show_versions(browser.new_page(), address, Path(shown or tmp_path) / "prometheus.png")
        taken = subprocess.run(start(config, address), cwd=ROOT, capture_output=True, text=True)
        assert f"cannot listen on {address}" in taken.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{address}", timeout=5)
    assert (config.logs / "prometheus" / "prometheus.yml").is_file()
