"""What can be wrong with a policy's file before anything reads it."""

from __future__ import annotations

import sys
from pathlib import Path

from inferential.errors import InferentialError


class PolicyFileError(InferentialError, ValueError):
    """A policy's file cannot be used; the text names it and says why."""


def policy_file(path: str) -> str:
    """Returns the path, `~` resolved.

    Raises:
        PolicyFileError: there is no such file.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        what = "is a folder" if found.is_dir() else "does not exist"
        raise PolicyFileError(f"{path} {what}: expected a file, from {Path.cwd()} or by its whole path")
    return str(found)


def missing_package(error: ModuleNotFoundError, wanted: str) -> PolicyFileError:
    """Returns an error that says what to install, and where."""
    return PolicyFileError(f"needs {wanted}; {error.name} is not installed: {sys.executable} -m pip install {wanted}")
