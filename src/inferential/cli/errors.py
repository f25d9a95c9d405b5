"""The error that ends a command with one line for the user.

A command raises it; `main` prints it.
"""

from __future__ import annotations


class CliError(Exception):
    """What the user reads; several lines are several errors."""
