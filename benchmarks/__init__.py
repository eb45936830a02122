"""Measurements of d2lmini beside its peers; `python -m benchmarks` runs them, `make bench` too."""
