"""A client of Prometheus' HTTP API."""

import math
import time

import requests

from common.errors import UserError

TIMEOUT = 30.0  # seconds
SCRAPE_SECONDS = 5  # as in monitoring/prometheus.yml
SAMPLES_PER_SERIES = 240


class Prometheus:
    """The Prometheus server that listens on `address`, HOST:PORT."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}"
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy on the way to loopback

    def is_ready(self) -> bool:
        try:
            return self.session.get(f"{self.url}/-/ready", timeout=TIMEOUT).ok
        except requests.RequestException:
            return False

    def has_data(self, query: str, minutes: float) -> bool:
        """Return whether a series had a finite value in the last minutes; raises UserError."""
        now = time.time()
        step = max(SCRAPE_SECONDS, round(60 * minutes / SAMPLES_PER_SERIES))
        parameters = {"query": query, "start": now - 60 * minutes, "end": now, "step": step}
        try:
            answer = self.session.post(f"{self.url}/api/v1/query_range", data=parameters, timeout=TIMEOUT).json()
            if answer["status"] == "success":
                series = answer["data"]["result"]
                return any(math.isfinite(float(value)) for one in series for _, value in one["values"])
            problem = str(answer["error"])
        except requests.ConnectionError as error:
            raise UserError(f"no Prometheus on {self.url}; `python -m monitoring start` starts one") from error
        except (requests.RequestException, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{self.url} does not answer as Prometheus does: {error}") from error
        raise UserError(f"{self.url} rejects {query}: {problem}")
