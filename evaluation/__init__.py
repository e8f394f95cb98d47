"""Evaluation of the current models on images unlike its training set: corrupted digits, synthetic photos, outliers."""
