"""Videos of a dataset are written without a harm to what else runs."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

from inferential.recording.dataset.pictures import CODECS, Video, find_codec

pytest.importorskip("av")


def scheduling() -> set[int]:
    """Returns the scheduling policies of this process's threads."""
    return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="the platform has no scheduling policies")
@pytest.mark.parametrize("codec", CODECS)
def test_an_encoder_does_not_come_before_what_else_runs(codec: str) -> None:
    before = scheduling()
    try:
        video = Video(io.BytesIO(), codec, 30, (64, 64, 3))
    except ValueError as error:  # FFmpeg's builds differ
        pytest.skip(f"no encoder {codec} here: {error}")
    with video:
        for _ in range(3):
            video.add(np.zeros((64, 64, 3), np.uint8))
            assert scheduling() == before


def test_finding_a_codec_leaves_the_priority_as_well() -> None:
    before = scheduling()
    assert find_codec(30, [(64, 64, 3)]) in CODECS
    assert scheduling() == before
