"""The phases of a server, and which may follow which; docs/operations.md draws them."""

from enum import StrEnum


class Phase(StrEnum):
    """What the supervisor is doing."""

    STARTING = "starting"  # for the first time: until all workers answer
    SERVING = "serving"  # TorchServe runs
    RECOVERING = "recovering"  # TorchServe died and is started again
    DRAINING = "draining"  # no new requests; the others are answered
    STOPPED = "stopped"  # no process is left


TRANSITIONS = {
    Phase.STARTING: {Phase.SERVING, Phase.DRAINING, Phase.STOPPED},
    Phase.SERVING: {Phase.RECOVERING, Phase.DRAINING},
    Phase.RECOVERING: {Phase.SERVING, Phase.RECOVERING, Phase.DRAINING, Phase.STOPPED},
    Phase.DRAINING: {Phase.STOPPED},
    Phase.STOPPED: set[Phase](),
}


def check_transition(phase: Phase, following: Phase) -> Phase:
    """Return the following phase; ValueError if it may not follow."""
    if following not in TRANSITIONS[phase]:
        raise ValueError(f"{following} after {phase}; expected one of {', '.join(sorted(TRANSITIONS[phase]))}")
    return following
