"""Serving: the archive, TorchServe under supervision, and its client. Imports nothing else of the project."""
