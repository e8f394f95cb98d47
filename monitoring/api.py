"""Prometheus' HTTP API: what its queries answer."""

import math
import time
from dataclasses import dataclass
from typing import Any

import requests

from serving.config import ServingError

TIMEOUT = 30.0  # s
POINTS = 240  # of a series, about: more than a panel has pixels to tell apart
SCRAPE_SECONDS = 5  # monitoring/prometheus.yml's; a finer step shows nothing more


@dataclass(frozen=True)
class Series:
    """Labels and points: times in minutes from now, so 0 or less, and finite values."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    """One that listens on `address`, HOST:PORT."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}"
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy of the user's is not for a Prometheus on loopback

    def is_ready(self) -> bool:
        try:
            return self.session.get(f"{self.url}/-/ready", timeout=TIMEOUT).ok
        except requests.RequestException:
            return False

    def range(self, query: str, minutes: float) -> list[Series]:
        """Every series of the last minutes that has a value; ServingError if the query is refused."""
        now = time.time()
        step = max(SCRAPE_SECONDS, round(60 * minutes / POINTS))
        period = {"query": query, "start": now - 60 * minutes, "end": now, "step": step}
        found = [_series(each["metric"], each["values"], now) for each in self._ask("query_range", period)]
        return [each for each in found if each.values]

    def now(self, query: str) -> list[Series]:
        """Every series that has a value now, as its one point; ServingError if the query is refused."""
        found = [_series(each["metric"], [each["value"]], time.time()) for each in self._ask("query", {"query": query})]
        return [each for each in found if each.values]

    def _ask(self, kind: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            told = self.session.post(f"{self.url}/api/v1/{kind}", data=asked, timeout=TIMEOUT).json()
            if told["status"] == "success":
                return list(told["data"]["result"])
            problem = str(told["error"])
        except requests.ConnectionError as error:
            raise ServingError(f"no Prometheus on {self.url}; `python -m monitoring start` starts one") from error
        except (requests.RequestException, ValueError, LookupError, TypeError) as error:
            raise ServingError(f"{self.url} does not answer as Prometheus does: {error}") from error
        raise ServingError(f"{self.url} refuses {asked['query']}: {problem}")


def _series(labels: dict[str, str], points: list[tuple[float, str]], now: float) -> Series:
    known = [((when - now) / 60, float(value)) for when, value in points if math.isfinite(float(value))]
    return Series(labels, [when for when, _ in known], [value for _, value in known])
