"""Shared by all packages: command line, user errors, atomic file writes."""
