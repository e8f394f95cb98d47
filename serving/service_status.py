"""ServiceStatus: what the HTTP server says of the service, put together from tokens, readiness and kept state."""

from typing import Any

from serving.readiness import Readiness
from serving.state_keeper import StateKeeper
from serving.tokens import Tokens


class ServiceStatus:
    """Answers of /ready and /state."""

    def __init__(self, tokens: Tokens, readiness: Readiness, keeper: StateKeeper) -> None:
        self.tokens, self.readiness, self.keeper = tokens, readiness, keeper

    def find_problem(self) -> str | None:
        """Return why callers cannot use the service now, None if they can."""
        return self.tokens.problem or self.readiness.find_problem()

    def find_warning(self) -> str | None:
        """Return what an operator must mend although the service answers, None if there is nothing."""
        unkept = f"changes are not kept: {self.keeper.problem}" if self.keeper.problem else None
        return self.tokens.warning or unkept

    def describe_state(self) -> dict[str, Any]:
        """Return the fields of /state, after the latest changes are kept."""
        with self.tokens.open_client() as client:
            return self.keeper.describe(client)
