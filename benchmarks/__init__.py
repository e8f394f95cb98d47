"""Measurements that the README quotes; they use training and serving as a user would."""

import training  # noqa: F401 - makes torchvision importable beside a CPU-only torch
