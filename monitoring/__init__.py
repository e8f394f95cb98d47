"""Prometheus, its rules and the Grafana dashboard beside the running service."""
