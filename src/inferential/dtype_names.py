"""numpy's dtypes by name, also by names that others send. bfloat16 is that of `ml_dtypes`, as numpy has none."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

MAX_AXES = 64
"""Of an array of numpy."""
_LONGEST = 40
"""A name of more characters has several fields, or is a program's text, which numpy would parse."""


def sent_dtype(name: object) -> np.dtype[Any]:
    """Returns the dtype of a name that came from outside.

    Raises:
        ValueError: there is none.
    """
    text = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    if isinstance(text, str) and len(text) <= _LONGEST and "," not in text:
        try:
            return np.dtype(text)
        except (TypeError, ValueError, SyntaxError):
            pass
    raise ValueError(f"unknown dtype {str(name)[:_LONGEST]!r}")


@cache
def named_dtype(name: str) -> np.dtype[Any]:
    """Returns the dtype of that name, in native byte order.

    Raises:
        ValueError: the name is bfloat16, and ml_dtypes is not installed.
        TypeError: numpy has no dtype of that name.
    """
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise ValueError(
            "No numpy dtype for BFLOAT16: ml_dtypes is not installed (pip install 'inferential[bfloat16]')"
        ) from None
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found
