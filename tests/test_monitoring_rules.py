"""monitoring/: what Prometheus is given is valid, tested by promtool, and agrees with configuration and docs."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.process import JOBS
from serving.config import ROOT, read_config
from tests.dashboard import read_panels

MONITORING = ROOT / "monitoring"
RULES = MONITORING / "rules"
CONFIG = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
REFERENCE = (ROOT / "docs" / "reference" / "metrics.md").read_text()
ANNOTATIONS = {"summary", "description", "runbook", "fires_within"}
RECORDED = r"\b(?:server|server_version):[a-z0-9_]+:[a-z0-9_]+"
METRIC = r"(?<![:\w])(?:digits_|ts_|Requests[2-5])\w+"
LAG_SECONDS = 10  # a scrape and an evaluation


def rules(name: str) -> list[dict[str, Any]]:
    """All rules of a file, whatever their group."""
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDING, ALERTS = rules("recording.yml"), rules("alerts.yml")


def seconds(duration: str) -> int:
    """Of Prometheus' notation: 1m30s is 90."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    assert re.fullmatch(r"([0-9]+[smhd])+", duration)
    return sum(int(count) * units[unit] for count, unit in re.findall(r"([0-9]+)([smhd])", duration))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize(
    ("check", "files"),
    [
        ("check config", [MONITORING / "prometheus.yml"]),
        ("check rules", sorted(RULES.glob("*.yml"))),
        pytest.param("test rules", sorted((RULES / "tests").glob("*.yml")), marks=pytest.mark.slow),
    ],
)
def test_promtool_finds_no_fault(check: str, files: list[Path]) -> None:
    assert files
    run = subprocess.run(["promtool", *check.split(), *files], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_prometheus_scrapes_the_addresses_of_the_configuration() -> None:
    jobs = {job["job_name"]: job for job in CONFIG["scrape_configs"]}
    assert jobs.keys() == JOBS.keys()
    for name, job in jobs.items():
        host, port = read_config().get_ports()[JOBS[name]]
        assert job["static_configs"] == [{"targets": [f"{host}:{port}"], "labels": {"server": "local"}}]
        assert job["scrape_interval"] == "5s"


def test_prometheus_reads_every_file_of_rules() -> None:
    assert {MONITORING / name for name in CONFIG["rule_files"]} == set(RULES.glob("*.yml"))


def test_every_alert_says_what_it_is_what_to_do_and_by_when_it_fires() -> None:
    for alert in ALERTS:
        annotations = alert["annotations"]
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert annotations.keys() == ANNOTATIONS
        assert annotations["summary"].endswith(".")
        assert annotations["description"].endswith(".")
        assert "$value" in annotations["summary"]
        assert seconds(annotations["fires_within"]) >= seconds(alert.get("for", "0s")) + LAG_SECONDS
        page, anchor = annotations["runbook"].split("#")
        sections = re.split(r"^#+ ", (ROOT / page).read_text(), flags=re.MULTILINE)
        found = [section for section in sections if section.split("\n")[0].lower().replace(" ", "-") == anchor]
        assert len(found) == 1, anchor
        assert f"`{annotations['fires_within']}`" in found[0]


def test_every_metric_of_a_rule_or_of_the_dashboard_is_in_the_reference() -> None:
    table = {name for line in REFERENCE.splitlines() if line.startswith("| `digits_") for name in named(line)}
    queries = [rule["expr"] for rule in RECORDING + ALERTS]
    queries += [query for panel in read_panels() for query in panel.queries]
    metrics = {name for query in queries for name in re.findall(METRIC, re.sub(RECORDED, "", query))}
    own = {re.sub("_(bucket|sum|count)$", "", name) for name in metrics if name.startswith("digits_")}
    assert len(own) > 20
    assert own <= table
    assert {name for name in metrics if not name.startswith("digits_")} <= named(REFERENCE)


def named(text: str) -> set[str]:
    """What stands alone between backticks."""
    return set(re.findall(r"`(\w+)`", text))


def test_every_recorded_name_that_is_used_is_recorded() -> None:
    recorded = [rule["record"] for rule in RECORDING]
    assert len(set(recorded)) == len(recorded)
    files = [path for path in MONITORING.rglob("*") if path.suffix in (".yml", ".json")]
    used = {path.name: set(re.findall(RECORDED, path.read_text())) for path in files}
    assert {name: names - set(recorded) for name, names in used.items() if names - set(recorded)} == {}


def test_every_alert_is_made_to_fire_and_kept_from_firing() -> None:
    files = [yaml.safe_load(path.read_text()) for path in (RULES / "tests").glob("*.yml")]
    cases = [case for file in files for test in file["tests"] for case in test.get("alert_rule_test", [])]
    fired = {
        (case["alertname"], each["exp_labels"]["severity"], each["exp_labels"].get("window", ""))
        for case in cases
        for each in case["exp_alerts"]
    }
    expected = {(each["alert"], each["labels"]["severity"], each["labels"].get("window", "")) for each in ALERTS}
    assert fired == expected
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == {each["alert"] for each in ALERTS}
