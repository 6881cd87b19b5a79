"""One fleet of engines for all that a job generates: rollouts of every expert, search and evaluation.

Nothing is imported here: every process of a run imports its own part, and torch takes seconds.
"""
