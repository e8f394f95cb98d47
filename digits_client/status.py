"""StatusClient reads the supervisor's readiness, saved versions and metrics."""

from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from digits_client.exceptions import UnexpectedResponseError
from digits_client.transport import RETRIES, TIMEOUT, ApiClient, ClosingClient, Server, find_server, retry_repeatable
from digits_client.types import Readiness, Sample


class StatusClient(ClosingClient):
    """Reads the supervisor's status and the metrics of supervisor and TorchServe; needs no token."""

    def __init__(self, *, server: Server | None = None, timeout: float = TIMEOUT, retries: int = RETRIES) -> None:
        server = server or find_server()
        self.supervisor = ApiClient(server.supervisor, None, timeout, retry_repeatable(retries))
        self.torchserve = ApiClient(server.metrics, None, timeout, retry_repeatable(retries))

    def read_readiness(self) -> Readiness:
        """Return the readiness of the default version, from /ready."""
        response = self.supervisor.request("GET", "/ready")
        return Readiness(response.status_code == 200, response.text.strip())

    def read_state(self) -> dict[str, Any]:
        """Return /state: what a restart would serve, after the supervisor has saved the latest changes.

        `default`, `previous` (what rollback returns to; both may be None), `versions` with their `min_workers` and
        `max_workers`, `problem` (why changes are not kept, None if they are) and `work` (by version, a number that
        changes while its workers are busy).
        """
        state = self.supervisor.call_json("GET", "/state")
        if not isinstance(state, dict) or not state.keys() >= {"default", "previous", "versions", "problem", "work"}:
            raise UnexpectedResponseError(f"{self.supervisor.url}/state: not a state; is this the digit service?")
        return state

    def read_metrics(self, torchserve: bool = True) -> list[Sample]:
        """Return every value of /metrics, the supervisor's and by default TorchServe's."""
        apis: Iterable[ApiClient] = (self.torchserve, self.supervisor) if torchserve else (self.supervisor,)
        texts = [api.call("GET", "/metrics").text for api in apis]
        # Type lines are removed: with them, the parser adds `_total` to the names of TorchServe's counters.
        lines = [line for text in texts for line in text.splitlines() if not line.startswith("#")]
        try:
            families = list(text_string_to_metric_families("\n".join(lines)))
        except ValueError as error:
            raise UnexpectedResponseError("the response has no metrics; is this the digit service?") from error
        return [Sample(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
