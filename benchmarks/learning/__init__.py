"""What one step of training costs: parts of ``benchmarks/training.py``."""
