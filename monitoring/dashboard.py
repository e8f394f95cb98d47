"""The dashboard as Grafana has it: its panels, and their queries with the variables filled in."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent / "grafana" / "dashboards" / "digits.json"
VARIABLES = {"$server": ".+", "$version": ".+", "$__rate_interval": "1m"}  # all servers, all versions


@dataclass(frozen=True)
class Query:
    """PromQL without variables; the legend may hold labels as {{label}}."""

    text: str
    legend: str

    def name(self, labels: dict[str, str]) -> str:
        """The legend of a series with these labels."""
        text = self.legend
        for label, value in labels.items():
            text = text.replace(f"{{{{{label}}}}}", value)
        return text


@dataclass(frozen=True)
class Panel:
    """One panel or row, in Grafana's grid of 24 columns: x and width in columns, y and height in grid rows."""

    id: int
    kind: str  # row, stat, timeseries or table
    title: str
    description: str
    x: int
    y: int
    width: int
    height: int
    queries: list[Query]
    field: dict[str, Any]  # fieldConfig.defaults
    options: dict[str, Any]
    columns: dict[str, str]  # of a table: label -> heading, in order

    @property
    def unit(self) -> str:
        return str(self.field.get("unit", "short"))

    @property
    def is_stacked(self) -> bool:
        """Whether the series are drawn as shares of their sum, one upon the other."""
        return bool(self.field.get("custom", {}).get("stacking", {}).get("mode") == "percent")

    @property
    def limits(self) -> list[tuple[float, str]]:
        """Value and colour from which on it counts, of every threshold but the base."""
        return [(each["value"], each["color"]) for each in self._steps() if each["value"] is not None]

    def color(self, value: float) -> str:
        """Of the highest threshold that the value reaches."""
        reached = [each["color"] for each in self._steps() if each["value"] is None or value >= each["value"]]
        return str(reached[-1])

    def mapped(self, value: float) -> str | None:
        """The text that stands for the value, if one does."""
        for mapping in self.field.get("mappings", []):
            if text := mapping["options"].get(f"{value:g}"):
                return str(text["text"])
        return None

    def _steps(self) -> list[dict[str, Any]]:
        return list(self.field["thresholds"]["steps"])


def read_dashboard(path: Path = DASHBOARD) -> list[Panel]:
    """Every panel, rows included, in the file's order."""
    return [_panel(each) for each in json.loads(path.read_text())["panels"]]


def _panel(told: dict[str, Any]) -> Panel:
    grid = told["gridPos"]
    return Panel(
        id=told["id"],
        kind=told["type"],
        title=told["title"],
        description=told.get("description", ""),
        x=grid["x"],
        y=grid["y"],
        width=grid["w"],
        height=grid["h"],
        queries=[Query(substituted(each["expr"]), each["legendFormat"]) for each in told.get("targets", [])],
        field=told.get("fieldConfig", {}).get("defaults", {}),
        options=told.get("options", {}),
        columns=_columns(told),
    )


def _columns(told: dict[str, Any]) -> dict[str, str]:
    names: dict[str, str] = {}
    for each in told.get("transformations", []):
        names |= each["options"]["renameByName"]
    return names


def substituted(query: str) -> str:
    """The query with every variable filled in."""
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query
