"""Detectors, metrics and comparisons of steered with unsteered pictures."""
