"""Experiments: many small trainings side by side as Ray tasks, and what they show.

Nothing is imported here: every process of a run imports its own part, and torch takes seconds.
"""
