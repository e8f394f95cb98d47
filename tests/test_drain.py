"""A server stopped under load: requests in progress finish, later ones fail, and /ready is 503."""

import time
from contextlib import suppress

import pytest
import requests

from serving.config import Config
from serving.start_checks import check_ports
from tests.images import make_large_image
from tests.servers import Load, get_readiness, is_predicting, read_log, run_load, run_server, wait_for


@pytest.mark.serial
def test_stop_under_load_finishes_requests_in_progress_and_fails_later_ones(own: Config) -> None:
    """Large images keep the queue and the workers busy."""
    with (
        run_server(own) as (process, _),
        run_load(Load(own, connections=12, image=make_large_image(), pause=0.05)) as load,
    ):
        wait_for(lambda: sum(time.monotonic() - since > 0.12 for since in list(load.waiting.values())) >= 8)
        stopped = time.monotonic()
        process.terminate()
        wait_for(lambda: not is_predicting(own), 10)
        readiness = []
        while process.poll() is None:
            with suppress(requests.ConnectionError):
                readiness.append(get_readiness(own))
        gone = time.monotonic()
    assert process.returncode == 0
    before = [request for request in load.records if request.sent < stopped - 0.1]
    in_progress = [request for request in before if request.ended > stopped]
    assert len(in_progress) >= 8
    assert [request.status for request in before] == [200] * len(before)
    late = [request for request in load.records if request.start > stopped + 0.5]
    slowest = max(request.ended - request.start for request in late)
    print(f"{len(in_progress)} in progress; {len(late)} later ones rejected in {slowest:.2f} s at the most")
    assert late
    assert all(request.status in (400, 0) and request.ended - request.start < 1 for request in late)
    assert gone - stopped < 30
    assert "stopping with requests in progress" not in read_log(own)
    assert (503, "draining: this server is stopping") in readiness
    assert {status for status, _ in readiness} == {503}
    check_ports(own)
