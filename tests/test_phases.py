"""The supervisor's phases, and the picture of them in the docs."""

import re

import pytest

from serving.config import ROOT
from serving.phases import TRANSITIONS, Phase, check_transition


def test_the_docs_draw_every_transition_and_no_other() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    drawn = set(re.findall(r"^    (\w+) --> (\w+):", text, re.MULTILINE))
    assert drawn == {(phase.value, following.value) for phase, allowed in TRANSITIONS.items() for following in allowed}


def test_a_phase_that_may_not_follow_is_an_error() -> None:
    assert check_transition(Phase.SERVING, Phase.DRAINING) is Phase.DRAINING
    with pytest.raises(ValueError, match="serving after draining; expected one of stopped"):
        check_transition(Phase.DRAINING, Phase.SERVING)
