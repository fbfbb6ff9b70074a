"""The sections of the check of a GPU machine (benchmarks/gpu.py), one module each: `run(kit)` returns its findings."""
