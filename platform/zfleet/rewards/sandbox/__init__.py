"""Runs code that a model wrote, and tells whether tests hold, without believing anything the code says.

Two boxes for each verdict, both new: the *candidate* runs the completion and never sees a test; the *examiner* runs the
tests, calls the candidate's functions over a pipe that carries plain values only, and tells the host. So no patched
built-in, no early exit and nothing printed can pass for a right answer. ``docs/sandbox.md`` says what is covered.
"""
