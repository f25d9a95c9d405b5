"""Numbers of arrays as lists, for JSON and people."""

from __future__ import annotations

from typing import Any

import numpy as np

_MOST_SHORTENED = 1024
"""Numbers of one array; 2 us each."""


def decimal_list(array: np.ndarray[Any, Any]) -> Any:
    """Returns the numbers of an array as nested lists, a float32 in as few digits as it takes: 0.1, which Python alone
    would write as 0.10000000149011612.

    A reader who makes float32 of it gets the same number. Of an array with very many numbers all digits are written.
    """
    if array.dtype.kind == "f" and array.itemsize < 8 and array.size <= _MOST_SHORTENED:
        array = array.astype(np.str_).astype(np.float64)
    return array.tolist()
