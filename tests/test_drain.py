"""A server stopped under load: what was sent before is answered, what comes later is refused, /ready says so."""

import time
from contextlib import suppress

import pytest
import requests

from serving.config import Config
from serving.start_checks import check_ports
from tests.images import make_large_image
from tests.servers import Load, answers, errors, ready, serving_client, under_load, wait_for


@pytest.mark.serial
def test_a_stop_under_load_answers_all_that_was_sent_and_refuses_the_rest_at_once(own: Config) -> None:
    """Large images, so that at every moment many are queued and in the workers' hands."""
    with (
        serving_client(own) as (process, _),
        under_load(Load(own, connections=12, picture=make_large_image(), pause=0.05)) as load,
    ):
        wait_for(lambda: sum(time.monotonic() - since > 0.12 for since in list(load.waiting.values())) >= 8)
        stopped = time.monotonic()
        process.terminate()
        wait_for(lambda: not answers(own), 10)
        said = []
        while process.poll() is None:
            with suppress(requests.ConnectionError):
                said.append(ready(own))
        gone = time.monotonic()
    assert process.returncode == 0
    before = [each for each in load.sent if each.sent < stopped - 0.1]
    under_way = [each for each in before if each.ended > stopped]
    assert len(under_way) >= 8
    assert [each.status for each in before] == [200] * len(before)
    late = [each for each in load.sent if each.start > stopped + 0.5]
    slowest = max(each.ended - each.start for each in late)
    print(f"{len(under_way)} under way; {len(late)} later ones refused in {slowest:.2f} s at the most")
    assert late
    assert all(each.status in (400, 0) and each.ended - each.start < 1 for each in late)
    assert gone - stopped < 30
    assert "stopping with requests under way" not in errors(own)
    assert (503, "draining: this server stops") in said
    assert {status for status, _ in said} == {503}
    check_ports(own)
