"""What can be wrong with a policy's file and options before anything reads it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from inferential.errors import InferentialError

_LFS_POINTER = b"version https://git-lfs."


class PolicyFileError(InferentialError, ValueError):
    """A policy's file cannot be used; the text names it and says why."""


def policy_file(path: str) -> str:
    """Returns the path, `~` resolved.

    Raises:
        PolicyFileError: there is no such file, or it is none yet.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        what = "is a folder" if found.is_dir() else "does not exist"
        raise PolicyFileError(f"{path} {what}: expected a file, from {Path.cwd()} or by its whole path")
    check_fetched(found)
    return str(found)


def check_fetched(file: Path) -> None:
    """Checks that a file is not what stands for one that was not downloaded.

    Raises:
        PolicyFileError: it is empty, or a pointer of Git LFS.
    """
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(_LFS_POINTER))
    except OSError as error:
        raise PolicyFileError(f"{file} cannot be read: {error.strerror}") from error
    if not begin:
        raise PolicyFileError(f"{file} is empty")
    if begin == _LFS_POINTER:
        raise PolicyFileError(
            f"{file} is a pointer of Git LFS, not the file itself: run git lfs pull, or download it with hf download"
        )


def check_count(name: str, value: Any) -> None:
    """Checks an option that counts something.

    Raises:
        ValueError: naming it, where it is no whole number above 0.
    """
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}: expected a whole number above 0, got {value!r}")


def missing_package(error: ModuleNotFoundError, package: str, otherwise: str = "") -> PolicyFileError:
    """Returns an error that says what to install, and where.

    Args:
        error: what importing it raised.
        package: its name on PyPI.
        otherwise: of another that does as well.
    """
    wanted = f"{package} or {otherwise}" if otherwise else package
    return PolicyFileError(f"needs {wanted}; {error.name} is not installed: {sys.executable} -m pip install {package}")
