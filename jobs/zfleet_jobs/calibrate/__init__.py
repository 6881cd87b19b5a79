"""Calibrating dispatchers, and registering them."""
