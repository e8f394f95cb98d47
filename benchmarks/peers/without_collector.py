"""The project's command line with a supervisor that collects no metrics of TorchServe and its workers."""

import sys

from serving.__main__ import main
from serving.watch import Watch

Watch.look = lambda *_: None  # type: ignore[method-assign]
sys.exit(main())
