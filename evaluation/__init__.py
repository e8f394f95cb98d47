"""Evaluation of the current model on images unlike its training set: corrupted digits, synthetic photos, outliers."""
