"""The panels of the Grafana dashboard and their queries."""

import json
from dataclasses import dataclass
from pathlib import Path

DASHBOARD = Path(__file__).parents[1] / "monitoring" / "grafana" / "dashboards" / "digits.json"
VARIABLES = {"$server": ".+", "$version": ".+", "$__rate_interval": "1m"}  # all servers, all versions


@dataclass(frozen=True)
class Panel:
    """A panel with data; its PromQL queries have values in place of variables."""

    title: str
    description: str
    queries: list[str]


def read_panels() -> list[Panel]:
    """Return the panels without the rows, in the file's order."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        Panel(
            panel["title"], panel["description"], [_substitute_variables(target["expr"]) for target in panel["targets"]]
        )
        for panel in panels
        if panel["type"] != "row"
    ]


def _substitute_variables(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query
