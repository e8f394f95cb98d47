"""The supervisor's phases and their transitions, as drawn in docs/how-to/deploy.md."""

from enum import StrEnum


class Phase(StrEnum):
    """Phase of the supervisor."""

    STARTING = "starting"  # first start, until all workers are READY
    SERVING = "serving"  # TorchServe is running
    RECOVERING = "recovering"  # TorchServe died and is being restarted
    DRAINING = "draining"  # requests in progress are answered, new ones are rejected
    STOPPED = "stopped"  # all processes have ended


TRANSITIONS = {
    Phase.STARTING: {Phase.SERVING, Phase.DRAINING, Phase.STOPPED},
    Phase.SERVING: {Phase.RECOVERING, Phase.DRAINING},
    Phase.RECOVERING: {Phase.SERVING, Phase.RECOVERING, Phase.DRAINING, Phase.STOPPED},
    Phase.DRAINING: {Phase.STOPPED},
    Phase.STOPPED: set[Phase](),
}


def check_transition(phase: Phase, next_phase: Phase) -> Phase:
    """Return the next phase; ValueError if the transition is not allowed."""
    if next_phase not in TRANSITIONS[phase]:
        raise ValueError(f"{next_phase} after {phase}; expected one of {', '.join(sorted(TRANSITIONS[phase]))}")
    return next_phase
