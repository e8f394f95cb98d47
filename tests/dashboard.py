"""The queries of the Grafana dashboard, panel by panel."""

import json
from dataclasses import dataclass
from pathlib import Path

DASHBOARD = Path(__file__).parents[1] / "monitoring" / "grafana" / "dashboards" / "digits.json"
VARIABLES = {"$server": ".+", "$version": ".+", "$__rate_interval": "1m"}  # all servers, all versions


@dataclass(frozen=True)
class Panel:
    """A panel that shows data, and its PromQL with every variable filled in."""

    title: str
    description: str
    queries: list[str]


def read_panels() -> list[Panel]:
    """Read every panel but the rows, in the file's order."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        Panel(panel["title"], panel["description"], [_fill_in(target["expr"]) for target in panel["targets"]])
        for panel in panels
        if panel["type"] != "row"
    ]


def _fill_in(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query
