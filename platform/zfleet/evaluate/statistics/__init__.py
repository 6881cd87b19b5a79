"""Statistics of evaluations, after "Adding Error Bars to Evals" (arXiv 2411.00640): numbers in, intervals out.

Nothing here knows models, tasks or files. ``benchmarks/interval_coverage.py`` measures how often each interval holds
the true value.
"""
