"""Dtypes by the names that others send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inferential.dtype_names import sent_dtype


@pytest.mark.parametrize("name", ["<f4", b">i8", "float32", "|b1", "<U12345678", "<M8[25s]", "|S3"])
def test_a_name_is_that_of_numpy(name: Any) -> None:
    assert sent_dtype(name) == np.dtype(name if isinstance(name, str) else name.decode())


@pytest.mark.parametrize(
    "name",
    [
        ",".join(["i4"] * 20_000),
        "," * 100_000,
        "i4,i4",
        "(2,",
        "x" * 1_000_000,
        "no such",
        b"\xff",
        ["f4"],
        None,
        4,
        {},
    ],
)
def test_what_is_no_name_of_one_dtype_is_refused_without_being_read(name: Any) -> None:
    with pytest.raises(ValueError, match="unknown dtype") as raised:
        sent_dtype(name)
    assert len(str(raised.value)) < 100
