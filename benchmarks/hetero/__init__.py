"""The parts of ``benchmarks/hetero_batch.py``: what is run, how it is measured, what is said of it."""
