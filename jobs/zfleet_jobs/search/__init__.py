"""Searching mixtures of experts with Ray Tune.

Nothing is imported here: every process of a run imports its own part, and torch takes seconds.
"""
