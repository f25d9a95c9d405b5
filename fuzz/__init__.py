"""Fuzzes what reads bytes from outside: `python -m fuzz --minutes 10`, and a short run in the tests.

A target (`targets`) is a function of bytes that raises AssertionError where two ways to read them differ, and lets
through whatever a reader raises that it does not document. Inputs are mutations of the seeds in `corpus`, made by
Hypothesis, which shrinks what it finds. `python -m fuzz.guided` has atheris make them instead, guided by coverage.
"""
