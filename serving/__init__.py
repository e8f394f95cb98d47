"""Serving: the archive, TorchServe under supervision, and its client. Imports nothing else of the project."""

import os

# Somebody else's: with it prometheus_client would put the supervisor's own values into files as it is imported.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
