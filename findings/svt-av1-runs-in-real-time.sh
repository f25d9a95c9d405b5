#!/usr/bin/env bash
# PyAV 18.1.0 (its wheel for Linux has SVT-AV1 4.1.0), as root, as in most containers: to encode one frame of AV1, which
# LeRobot's datasets have by default, changes how the calling thread is scheduled, for good.
# One would guess: an encoder takes its share of the cores as any other work does, and leaves the caller as it was.
# Seen: the thread that called `encode` and some forty of the encoder's own have the policy SCHED_FIFO with priority 99:
# they come before every usual process, such as a robot's control loop. The caller keeps it when the file is closed, and
# programs that it starts later inherit it. H.264 by x264 changes nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
SVT_LOG=0 venv/bin/python - <<'PYTHON'
import io
import os
import subprocess
import sys

import av
import numpy as np

USUAL = os.sched_param(0)
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, USUAL)
except PermissionError:
    sys.exit("run it as root: without the right to real-time priorities there is nothing to see")


def real_time():
    """How many threads of this process have a real-time policy."""
    return sum(os.sched_getscheduler(int(thread)) == os.SCHED_FIFO for thread in os.listdir("/proc/self/task"))


def encoded(codec):
    """Writes one frame; returns how many threads have a real-time policy before the file is closed."""
    with av.open(io.BytesIO(), "w", format="mp4") as file:
        stream = file.add_stream(codec, rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode(None))
        return real_time()


found = {codec: encoded(codec) for codec in ("libx264", "libsvtav1")}
print("threads of a real-time policy while a file is open:", found)
kept = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
print("the caller afterwards: policy", kept[0], "priority", kept[1])
program = "import os; print(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)"
child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
print("a program that it starts:", child)
as_seen = found["libx264"] == 0 and found["libsvtav1"] > 1 and kept == (os.SCHED_FIFO, 99) and child == "1 99"
sys.exit(not as_seen)
PYTHON
