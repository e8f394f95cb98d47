"""Prometheus and a dashboard beside the running service: what they scrape, show, and whether they show it."""
