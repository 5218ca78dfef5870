"""Benchmarks of the real parts, as ratios in one run wherever a ratio can be formed: `python -m loadgen.bench`."""
