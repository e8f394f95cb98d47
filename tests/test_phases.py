"""The supervisor's phases, and their diagram in the docs."""

import re

import pytest

from serving.config import ROOT
from serving.phases import TRANSITIONS, Phase, check_transition


def test_the_docs_draw_every_transition_and_no_other() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    transitions = set(re.findall(r"^    (\w+) --> (\w+):", text, re.MULTILINE))
    assert transitions == {
        (phase.value, next_phase.value) for phase, allowed in TRANSITIONS.items() for next_phase in allowed
    }


def test_a_transition_that_is_not_allowed_is_an_error() -> None:
    assert check_transition(Phase.SERVING, Phase.DRAINING) is Phase.DRAINING
    with pytest.raises(ValueError, match="serving after draining; expected one of stopped"):
        check_transition(Phase.DRAINING, Phase.SERVING)
