"""Serving: builds the archive and runs TorchServe under a supervisor."""

import os

# If set, prometheus_client would write the supervisor's own values into another program's files.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
