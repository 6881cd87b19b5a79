"""Singular value fine-tuning: factors, the SVF linear, z-vectors and their algebra."""
