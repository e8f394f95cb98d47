"""Prometheus with its rules, and the Grafana dashboard, for the running service."""
