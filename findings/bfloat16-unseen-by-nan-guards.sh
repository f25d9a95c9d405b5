#!/usr/bin/env bash
# ml_dtypes 0.6.0 with numpy 2.4.6: numpy's guards against NaN do not see bfloat16, and sums stop at 256.
# One would guess: `np.nan_to_num` and `np.nanmean` treat a bfloat16 array as any array of floats, and
# `sum()` accumulates in something wider, as numpy's float16 does pairwise.
# Seen: numpy takes the dtype for none of its inexact ones: `nan_to_num` returns the NaN, `nanmean` is
# NaN, and a thousand ones sum to 256. A guard for actions has to convert to float32 first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check ml_dtypes==0.6.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import sys

import ml_dtypes
import numpy as np

actions = np.array([0.5, np.nan, 1.5], dtype=ml_dtypes.bfloat16)
guarded = np.nan_to_num(actions)
mean = np.nanmean(actions)
total = np.ones(1000, dtype=ml_dtypes.bfloat16).sum()
print("nan_to_num:", guarded.astype(np.float32).tolist())
print("nanmean:", float(mean))
print("sum of 1000 ones:", float(total), "and in float16:", float(np.ones(1000, dtype=np.float16).sum()))
converted = np.nan_to_num(actions.astype(np.float32))
print("converted first:", converted.tolist())
sys.exit(
    not (
        np.isnan(guarded.astype(np.float32)[1])
        and np.isnan(float(mean))
        and float(total) == 256.0
        and converted.tolist() == [0.5, 0.0, 1.5]
    )
)
PYTHON
