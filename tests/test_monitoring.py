"""The dashboard asks for what there is, and a real Prometheus beside a real server answers all of it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from PIL import Image

from monitoring.api import Prometheus
from monitoring.dashboard import DASHBOARD, Panel, read_dashboard
from monitoring.process import TEMPLATE, effective
from monitoring.units import written
from serving.client import DigitsClient
from serving.config import ROOT, Config
from tests.pictures import SEVENS, SMOKE, bad_pictures
from tests.servers import configure_free_ports, serving_client, wait_for, with_archives
from tests.test_metrics_truth import rejected

MONITORING = ROOT / "monitoring"
FILE: dict[str, Any] = json.loads(DASHBOARD.read_text())
PANELS = read_dashboard()
ASKING = [panel for panel in PANELS if panel.kind != "row"]
PROMETHEUS_OWN = {"up", "ALERTS"}
NOT_METRICS = re.compile(r'\{[^}]*\}|"[^"]*"|\[[^]]*\]|\b(by|on|group_left)\s*\([^)]*\)|\bor\b')
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)"
)


def names(query: str) -> set[str]:
    """What a query selects, by name: every word that is no function."""
    return set(re.findall(r"\b[a-zA-Z_][\w:]*\b(?!\s*\()", NOT_METRICS.sub(" ", query)))


def documented() -> set[str]:
    """Every name of the metrics in the reference's table, a histogram's three among them."""
    found: set[str] = set()
    for cell, kind in re.findall(r"^\| (`digits_[^|]*) \| (\w+) \|", (ROOT / "docs/reference.md").read_text(), re.M):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        found |= {name + suffix for name in re.findall(r"`(\w+)`", cell) for suffix in suffixes}
    return found


def recorded() -> set[str]:
    groups = yaml.safe_load((MONITORING / "rules" / "recording.yml").read_text())["groups"]
    return {rule["record"] for group in groups for rule in group["rules"]}


def sections(page: str) -> set[str]:
    """Anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def overlap(one: Panel, other: Panel) -> bool:
    across = one.x < other.x + other.width and other.x < one.x + one.width
    return across and one.y < other.y + other.height and other.y < one.y + one.height


def test_names_of_a_query_are_its_metrics_alone() -> None:
    query = 'sum by (le) (rate(a_bucket{b="c"}[1m])) / on (d) group_left (e) (f:g:h > 0) or on () vector(1e3)'
    assert names(query) == {"a_bucket", "f:g:h"}


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel.id for panel in PANELS}) == len(PANELS)
    assert not [(one.title, other.title) for one, other in combinations(PANELS, 2) if overlap(one, other)]
    assert all(panel.x + panel.width <= 24 for panel in PANELS)


def test_every_query_asks_for_a_recorded_or_a_documented_metric() -> None:
    known = documented() | recorded() | PROMETHEUS_OWN
    asked = {name for panel in ASKING for query in panel.queries for name in names(query.text)}
    assert len(asked) > 20
    assert asked <= known


def test_every_variable_of_a_query_is_known() -> None:
    assert not [query.text for panel in ASKING for query in panel.queries if "$" in query.text]
    variables = {each["name"] for each in FILE["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(FILE["panels"])))
    assert used == variables == {"datasource", "server", "version"}


def test_every_description_names_a_section_that_is_there() -> None:
    there = sections("docs/operations.md")
    for panel in ASKING:
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
    made = effective(template, config)
    jobs = {job["job_name"]: job["static_configs"] for job in made["scrape_configs"]}
    assert [f"http://{jobs['digits'][0]['targets'][0]}"] == [config.url("supervisor")]
    assert [f"http://{jobs['torchserve'][0]['targets'][0]}"] == [config.url("metrics")]
    assert jobs["digits"][1:] == [other, {"targets": ["nameless:8083"]}]
    assert made["scrape_configs"][-1] == node
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in made["rule_files"])
    assert made["global"] == template["global"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0023, "s", "2.3 ms"),
        (0.0, "s", "0 s"),
        (1e-7, "s", "0.1 µs"),
        (86400.0, "s", "1 d"),
        (0.4567, "percentunit", "45.7%"),
        (18.0, "reqps", "18 req/s"),
        (3.0, "short", "3"),
        (20180.0, "short", "20,180"),
    ],
)
def test_values_are_written_short_and_with_their_unit(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text


def monitoring(*words: str, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A command to its end, with no other PATH than the given folder."""
    environment = os.environ | ({"PATH": str(path)} if path else {})
    command = [sys.executable, "-m", "monitoring", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A folder with a prometheus that ends at once, with code 3."""
    program = tmp_path / "bin" / "prometheus"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    return program.parent


def errors_of_start(tmp_path: Path, path: Path, address: str) -> str:
    """What `start` says when it fails: one line."""
    config = configure_free_ports(tmp_path)
    ended = monitoring("--config", str(config.path), "start", "--address", address, path=path)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_without_prometheus_it_says_how_to_get_it(tmp_path: Path) -> None:
    told = errors_of_start(tmp_path, tmp_path, free_address())
    assert "apt-get install prometheus" in told
    assert "https://prometheus.io/download/" in told


def test_a_taken_port_is_named(tmp_path: Path, stub: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {address}: Address already in use" in errors_of_start(tmp_path, stub, address)


@pytest.mark.parametrize("address", ["9090", "127.0.0.1", "127.0.0.1:port", "127.0.0.1:99999"])
def test_what_is_no_address_is_named(tmp_path: Path, stub: Path, address: str) -> None:
    assert f"--address is {address}" in errors_of_start(tmp_path, stub, address)


def test_a_prometheus_that_ends_is_no_success(tmp_path: Path, stub: Path) -> None:
    assert "ended by itself, with code 3" in errors_of_start(tmp_path, stub, free_address())


@pytest.mark.parametrize("command", ["check", "draw"])
def test_without_a_server_the_line_says_what_to_start(command: str) -> None:
    ended = monitoring(command, "--address", free_address())
    assert ended.returncode == 1
    assert "`python -m monitoring start`" in ended.stderr


@pytest.mark.parametrize("minutes", ["0", "-1", "inf", "nan", "ten"])
def test_minutes_are_a_positive_number(minutes: str) -> None:
    assert monitoring("draw", f"--minutes={minutes}").returncode == 2


def test_a_proxy_of_the_users_is_not_asked(own_http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{free_address()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert "does not answer as Prometheus does" in monitoring("check", "--address", own_http).stderr


def test_what_is_no_prometheus_is_told(own_http: str) -> None:
    assert "does not answer as Prometheus does" in monitoring("check", "--address", own_http).stderr


@pytest.fixture
def own_http(tmp_path: Path) -> Iterator[str]:
    """The address of a web server that is no Prometheus."""
    address = free_address()
    host, port = address.split(":")
    command = [sys.executable, "-m", "http.server", "--bind", host, port]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(f"http://{address}"))
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        return bool(requests.get(url, timeout=5).status_code)
    except requests.ConnectionError:
        return False


@contextmanager
def watching(config: Config, address: str) -> Iterator["subprocess.Popen[str]"]:
    """`start`, once it has said that it listens."""
    command = [sys.executable, "-m", "monitoring", "--config", str(config.path), "start", "--address", address]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
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


def traffic(client: DigitsClient) -> None:
    """More pictures than drift is told of, and what is odd, refused and rejected."""
    list(client.predict_many([SMOKE[number % 10] for number in range(600)], connections=2))
    bad = bad_pictures()
    odd = [SEVENS["dark on light"](), rejected(), bad["blank white"].body, bad["text"].body, bad["header bomb"].body]
    for picture in [*odd, *SMOKE.values()]:
        next(client.predict_many([picture], connections=1))
    client.explain(SMOKE[7])


@needs_prometheus
@pytest.mark.timeout(180)
def test_every_panel_has_data_beside_a_server_with_traffic(tmp_path: Path) -> None:
    config, address = with_archives(tmp_path, "1.0"), free_address()
    with serving_client(config) as (_, client), watching(config, address) as process:
        wait_for(lambda: bool(Prometheus(address).now('up{job="digits"} == 1')))
        before = monitoring("check", "--address", address)
        assert before.returncode == 1
        assert "no data: Drift: " in before.stdout
        traffic(client)
        wait_for(lambda: monitoring("check", "--address", address).returncode == 0)
        assert monitoring("check", "--address", address).stdout == ""
        out = tmp_path / "dashboard.png"
        drawn = monitoring("draw", "--address", address, "--minutes", "2", "--out", str(out))
        assert drawn.returncode == 0, drawn.stderr
        with Image.open(out) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 100
        taken = monitoring("--config", str(config.path), "start", "--address", address)
        assert f"cannot listen on {address}" in taken.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not answers(f"http://{address}")
    assert (config.logs / "prometheus" / "prometheus.yml").is_file()
