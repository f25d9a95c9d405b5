"""numpy's dtypes by name, bfloat16 among them: `ml_dtypes.bfloat16`, since numpy has none of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np


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
