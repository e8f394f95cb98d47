"""monitoring/: the dashboard agrees with the docs; Prometheus starts and has data for every panel."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import yaml
from playwright.sync_api import Page

from digits_client.client import DigitsClient
from monitoring.__main__ import ADDRESS
from monitoring.run_prometheus import TEMPLATE, fill_template
from serving.config import ROOT, Config
from tests.browser import launch_chromium, needs_chromium
from tests.dashboard import DASHBOARD, read_panels
from tests.images import SEVENS, SMOKE, bad_images
from tests.prometheus import Prometheus
from tests.servers import configure_free_ports, configure_with_archives, find_port, run_server, wait_for
from tests.test_metrics_truth import make_rejected_image

MONITORING = ROOT / "monitoring"
PANELS = read_panels()


def test_every_variable_in_a_query_is_defined() -> None:
    assert not [query for panel in PANELS for query in panel.queries if "$" in query]
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(dashboard["panels"])))
    assert used == variables == {"datasource", "server", "version"}


def test_every_description_names_an_existing_section() -> None:
    for panel in PANELS:
        link = re.search(r"(docs/[\w/-]+\.md)#([\w-]+)\.$", panel.description)
        assert link is not None, panel.title
        headings = re.findall(r"^#+ (.*)$", (ROOT / link.group(1)).read_text(), re.M)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert link.group(2) in anchors, panel.title


def test_grafana_reads_from_the_address_of_prometheus() -> None:
    provisioned = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/digits.yml").read_text())
    assert [source["url"] for source in provisioned["datasources"]] == [f"http://{ADDRESS}"]


def test_targets_come_from_the_configuration_and_the_rest_from_the_template(tmp_path: Path) -> None:
    config = configure_free_ports(tmp_path)
    template = yaml.safe_load(TEMPLATE.read_text())
    other = {"targets": ["other:8083"], "labels": {"server": "other"}}
    template["scrape_configs"][0]["static_configs"] += [other, {"targets": ["nameless:8083"]}]
    node = {"job_name": "node", "static_configs": [{"targets": ["127.0.0.1:9100"], "labels": {"server": "local"}}]}
    template["scrape_configs"].append(node)
    made = fill_template(template, config)
    jobs = {job["job_name"]: job["static_configs"] for job in made["scrape_configs"]}
    assert [f"http://{jobs['digits'][0]['targets'][0]}"] == [config.get_url("supervisor")]
    assert [f"http://{jobs['torchserve'][0]['targets'][0]}"] == [config.get_url("metrics")]
    assert jobs["digits"][1:] == [other, {"targets": ["nameless:8083"]}]
    assert made["scrape_configs"][-1] == node
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in made["rule_files"])
    assert made["global"] == template["global"]


def find_address() -> str:
    return f"127.0.0.1:{find_port()}"


def test_missing_prometheus_is_named(tmp_path: Path) -> None:
    command = make_command(configure_free_ports(tmp_path), find_address())
    run = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert "apt-get install prometheus" in run.stderr


def make_command(config: Config, address: str) -> list[str]:
    return [sys.executable, "-m", "monitoring", "--config", str(config.path), "start", "--address", address]


@contextmanager
def run_monitoring(config: Config, address: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `start` and yield once Prometheus is ready."""
    process = subprocess.Popen(make_command(config, address), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f"http://{address}" in line
        assert all(config.get_url(api).removeprefix("http://") in line for api in ("supervisor", "metrics"))
        wait_for(Prometheus(address).is_ready)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def send_digits(client: DigitsClient, seconds: float) -> None:
    """Send as many images as drift needs, and more until the seconds are over."""
    deadline = time.monotonic() + seconds
    list(client.predict_batch([SMOKE[number % 10] for number in range(600)], connections=2))
    while time.monotonic() < deadline:
        client.predict(SMOKE[7])
        time.sleep(0.02)


def send_odd_images(client: DigitsClient) -> None:
    """Send images with warnings, with errors and one that is rejected; explain one."""
    bad = bad_images()
    odd = [
        SEVENS["dark on light"](),
        make_rejected_image(),
        bad["blank white"].body,
        bad["text"].body,
        bad["header bomb"].body,
    ]
    for image in [*odd, *SMOKE.values()]:
        next(client.predict_batch([image], connections=1))
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
def test_every_panel_has_data_from_a_server_with_traffic(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """`make test ARGS="tests/test_monitoring.py -m slow --screenshots docs"` writes docs/prometheus.png."""
    screenshots = request.config.getoption("--screenshots")
    config, address = configure_with_archives(tmp_path, "1.0", "1.1"), find_address()
    with run_server(config) as (_, client), run_monitoring(config, address) as process:
        prometheus = Prometheus(address)
        wait_for(lambda: prometheus.has_data('up{job="digits"} == 1'))
        assert "Drift" in prometheus.list_empty_panels()
        send_digits(client.inference, 90 if screenshots else 0)
        send_odd_images(client.inference)
        client.register("digits-1.1.mar")
        client.promote("1.1")
        send_digits(client.inference, 90 if screenshots else 0)
        wait_for(lambda: prometheus.list_empty_panels() == [])
        with launch_chromium() as browser:
            show_versions(browser.new_page(), address, Path(screenshots or tmp_path) / "prometheus.png")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{address}", timeout=5)
    assert (config.logs / "prometheus" / "prometheus.yml").is_file()
