"""Interpreters of other Python versions that a machine has."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path


@functools.cache
def interpreter(version: str) -> str | None:
    """Returns a Python of that minor version ("3.10"): of pyenv's folders or of PATH; None: there is none."""
    found = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    on_path = shutil.which(f"python{version}")
    for python in [*map(str, reversed(found)), *([on_path] if on_path else [])]:
        program = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:  # what pyenv puts on PATH may be a script that refuses
            return python
    return None
