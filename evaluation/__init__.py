"""Evaluation of the released model on pictures unlike its training's: changed digits, photos, outliers."""
