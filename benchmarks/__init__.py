"""Measurements that are no part of the package, each run as python -m benchmarks.NAME."""
