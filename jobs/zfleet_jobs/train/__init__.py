"""Training experts: one Ray Train run each, several at once.

Nothing is imported here: every process of a run imports its own part, and torch takes seconds.
"""
