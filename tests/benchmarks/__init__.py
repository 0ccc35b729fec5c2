"""Measurements, printed as ratios taken in one run; nothing asserts a time."""
