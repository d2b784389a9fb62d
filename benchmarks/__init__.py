"""Measurements outside the package; each runs as python -m benchmarks.NAME."""
