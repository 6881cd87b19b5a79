"""Transferring experts to another base of the same architecture, and measuring what they are worth there.

Nothing is imported here: every process imports its own part, and torch takes seconds.
"""
