"""Measurements that the README quotes; they use training and serving as a user would."""
