"""monitoring/: Prometheus' configuration and rules are valid, pass promtool's tests and agree with the docs."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.run_prometheus import JOBS
from serving.config import ROOT, read_config
from tests.dashboard import read_panels

MONITORING = ROOT / "monitoring"
RULES = MONITORING / "rules"
CONFIG = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
REFERENCE = (ROOT / "docs" / "reference" / "metrics.md").read_text()
ANNOTATIONS = {"summary", "description", "runbook", "fires_within"}
RECORDED_NAME = r"\b(?:server|server_version):[a-z0-9_]+:[a-z0-9_]+"
METRIC_NAME = r"(?<![:\w])(?:digits_|ts_|Requests[2-5])\w+"
LAG_SECONDS = 10  # a scrape and an evaluation


def read_rules(name: str) -> list[dict[str, Any]]:
    """Return the rules of all groups of a file."""
    groups = yaml.safe_load((RULES / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDING, ALERTS, RENAMED = (read_rules(f"{name}.yml") for name in ("recording", "alerts", "renamed"))


def parse_duration(duration: str) -> int:
    """Return the seconds of a duration in Prometheus' notation: 1m30s is 90."""
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
def test_promtool_accepts_files_and_their_tests_pass(check: str, files: list[Path]) -> None:
    assert files
    run = subprocess.run(["promtool", *check.split(), *files], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_prometheus_scrapes_the_configured_addresses() -> None:
    jobs = {job["job_name"]: job for job in CONFIG["scrape_configs"]}
    assert jobs.keys() == JOBS.keys()
    for name, job in jobs.items():
        host, port = read_config().get_ports()[JOBS[name]]
        assert job["static_configs"] == [{"targets": [f"{host}:{port}"], "labels": {"server": "local"}}]
        assert job["scrape_interval"] == "5s"


def test_prometheus_loads_every_rules_file() -> None:
    assert {MONITORING / name for name in CONFIG["rule_files"]} == set(RULES.glob("*.yml"))


def test_every_alert_has_value_action_runbook_and_time() -> None:
    for alert in ALERTS:
        annotations = alert["annotations"]
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert annotations.keys() == ANNOTATIONS
        assert annotations["summary"].endswith(".")
        assert annotations["description"].endswith(".")
        assert "$value" in annotations["summary"]
        assert parse_duration(annotations["fires_within"]) >= parse_duration(alert.get("for", "0s")) + LAG_SECONDS
        page, anchor = annotations["runbook"].split("#")
        sections = re.split(r"^#+ ", (ROOT / page).read_text(), flags=re.MULTILINE)
        found = [section for section in sections if section.split("\n")[0].lower().replace(" ", "-") == anchor]
        assert len(found) == 1, anchor
        assert f"`{annotations['fires_within']}`" in found[0]


def test_every_metric_in_rules_and_dashboard_is_documented() -> None:
    table = {
        name for line in REFERENCE.splitlines() if line.startswith("| `digits_") for name in find_quoted_words(line)
    }
    queries = [rule["expr"] for rule in RECORDING + ALERTS + RENAMED]
    queries += [query for panel in read_panels() for query in panel.queries]
    metrics = {name for query in queries for name in re.findall(METRIC_NAME, re.sub(RECORDED_NAME, "", query))}
    own = {re.sub("_(bucket|sum|count)$", "", name) for name in metrics if name.startswith("digits_")}
    assert len(own) > 20
    assert own <= table
    assert {name for name in metrics if not name.startswith("digits_")} <= find_quoted_words(REFERENCE)


def find_quoted_words(text: str) -> set[str]:
    """Return the words that stand alone between backticks."""
    return set(re.findall(r"`(\w+)`", text))


def test_every_used_rule_is_recorded() -> None:
    recorded = [rule["record"] for rule in RECORDING + RENAMED]
    assert len(set(recorded)) == len(recorded)
    files = [path for path in MONITORING.rglob("*") if path.suffix in (".yml", ".json")]
    used = {path.name: set(re.findall(RECORDED_NAME, path.read_text())) for path in files}
    assert {name: names - set(recorded) for name, names in used.items() if names - set(recorded)} == {}


def test_every_renamed_metric_has_its_old_name_in_the_docs_and_a_test() -> None:
    tested = yaml.safe_load((RULES / "tests" / "renamed.yml").read_text())["tests"]
    queries = " ".join(case["expr"] for test in tested for case in test["promql_expr_test"])
    assert [rule["record"] for rule in RENAMED if rule["record"] not in queries] == []
    old = {re.sub("_(bucket|sum|count)$|(?<=seconds):.*", "", rule["record"]) for rule in RENAMED}
    assert [name for name in sorted(old) if name not in REFERENCE] == []


def test_every_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    files = [yaml.safe_load(path.read_text()) for path in (RULES / "tests").glob("*.yml")]
    cases = [case for file in files for test in file["tests"] for case in test.get("alert_rule_test", [])]
    fired = {
        (case["alertname"], alert["exp_labels"]["severity"], alert["exp_labels"].get("window", ""))
        for case in cases
        for alert in case["exp_alerts"]
    }
    expected = {(alert["alert"], alert["labels"]["severity"], alert["labels"].get("window", "")) for alert in ALERTS}
    assert fired == expected
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == {alert["alert"] for alert in ALERTS}
