"""Run code that a model wrote and decide whether tests pass, without trusting anything the code reports.

Each verdict takes two new boxes. The *candidate* runs the completion and never sees a test. The *examiner* runs the
tests, calls the candidate's functions over a pipe that carries plain values only, and reports to the host. So no
patched built-in, early exit or printed text can pass for a right answer. ``docs/sandbox.md`` says what is covered.
"""
