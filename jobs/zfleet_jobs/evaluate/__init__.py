"""Evaluations: every way of adapting on every task, in shared batches of the engine.

Nothing is imported here: every process of a run imports its own part, and torch takes seconds.
"""
