"""The tutorial's commands run as written."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.config import ROOT
from serving.config import Config as ServingConfig
from serving.supervisor_metrics import UPDATE_SECONDS
from tests.test_docs import checkout as checkout
from tests.test_docs import replace_ports

BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.skipif(not (ROOT / ".venv" / "installed").exists(), reason="needs the .venv that `make test` prepares")
@pytest.mark.timeout(900)
def test_tutorial_rolls_out_a_trained_model_and_restores_the_shipped_one(checkout: tuple[Path, ServingConfig]) -> None:
    folder, config = checkout
    metrics = "curl -s http://127.0.0.1:8083/metrics"  # they follow a promotion within UPDATE_SECONDS
    blocks = "\n".join(BLOCKS).replace(metrics, f"sleep {2 * UPDATE_SECONDS}; {metrics}")
    (folder / "blocks.sh").write_text(replace_ports("set -euo pipefail\n" + blocks, config))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ARGS"))}
    run = subprocess.run(["bash", "blocks.sh"], cwd=folder, env=environment, capture_output=True, text=True)
    output = run.stdout + run.stderr + (folder / "serve.log").read_text()
    assert run.returncode == 0, output
    responses = re.findall(r'"digit": (\d).*?"model_version": "(.*?)"', run.stdout)
    assert responses == [("7", "1.0"), ("7", "1.1"), ("7", "1.1")], output
    assert re.search(r'^digits_model_default\{version="1.1"\} 1.0$', run.stdout, re.MULTILINE), output
    assert (folder / "scripted_model.pt").read_bytes() == (ROOT / "scripted_model.pt").read_bytes()
    assert "Traceback" not in output
    assert run.stdout.endswith("stopped\n")
