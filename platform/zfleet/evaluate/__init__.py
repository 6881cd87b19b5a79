"""Evaluation: answers graded, the matrix of tasks and ways of adapting, its statistics and its report.

Nothing is imported here: the learner grades answers, and needs neither the statistics nor the report.
"""
