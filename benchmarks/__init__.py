"""Benchmarks of real servers on free ports; the docs quote their figures."""
