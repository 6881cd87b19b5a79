"""Filling a registry for benchmarks."""
