"""The report of an evaluation: one page with its pictures, of what the run has data for."""
