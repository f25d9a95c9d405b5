#!/usr/bin/env bash
# safetensors 0.8.0 (numpy): a transposed array is saved with its elements in the wrong places.
# One would guess: `safetensors.numpy.save` makes an array contiguous, or refuses one that is not.
# Seen: the shape of the view is written with the bytes of the memory behind it, so what is loaded has
# the right shape and other values. Weights exported with `.T` load without an error and act wrongly.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
from safetensors.numpy import load, save

weights = np.arange(6, dtype=np.float32).reshape(2, 3).T
loaded = load(save({"weights": weights}))["weights"]
contiguous = load(save({"weights": np.ascontiguousarray(weights)}))["weights"]
print("saved ", weights.tolist())
print("loaded", loaded.tolist())
print("made contiguous first:", contiguous.tolist())
sys.exit(not (loaded.shape == weights.shape and not np.array_equal(loaded, weights) and np.array_equal(contiguous, weights)))
PYTHON
