"""The project's command line with a supervisor that collects no metrics of TorchServe and its workers."""

import sys

from common.command_line import run_command
from serving.__main__ import parser
from serving.watch import Watch

Watch.look = lambda *_: None  # type: ignore[method-assign]
sys.exit(run_command(parser()))
