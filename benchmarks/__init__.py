"""Benchmarks: every budget of the server beside its limit, measured in one run (`python -m benchmarks`)."""
