"""Parts of ``benchmarks/real_model.py``."""
