"""The parts of ``search.py``."""
