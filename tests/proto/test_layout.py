"""How the arrays of a chunk lie side by side."""

from __future__ import annotations

import numpy as np

from inferential.proto.layout import Layout


def test_which_values_are_whole_follows_what_later_chunks_bring() -> None:
    chunk = {"action.arm": np.zeros((5, 2), np.float32), "action.gripper": np.zeros((5, 1), np.int32)}
    layout = Layout(chunk, is_spread=True)
    assert layout.whole.tolist() == [False, False, True]
    layout.widen(chunk | {"action.gripper": np.full((5, 1), 0.5)})
    assert layout.whole.tolist() == [False, False, False]
