#!/usr/bin/env bash
# openpi-client 0.1.2 with Pillow 13.0.0 and numpy 1.26.4: of a camera's image, resized as floats, white edges become black.
# One would guess: `image_tools.convert_to_uint8`, by which robots make images small before they send them, clips to 0..255.
# Seen: it multiplies by 255 and casts, which wraps round: 1.004 becomes 0. Pillow's bicubic filter goes beyond 1 beside
# each bright edge (it clips images of uint8, and those of floats not), so a line of pixels there is black in what the
# policy sees; nothing is said.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet openpi-client==0.1.2 pillow==13.0.0 numpy==1.26.4
env/bin/python - <<'PY'
import numpy as np
from openpi_client.image_tools import convert_to_uint8
from PIL import Image

edge = np.zeros((64, 64), np.float32)
edge[:, 32:] = 1.0  # the right half is white
resized = np.asarray(Image.fromarray(edge).resize((48, 48), Image.Resampling.BICUBIC))
sent = convert_to_uint8(resized)[24]
print("brightest value:", resized.max())
print("white side, as sent:", sent[24:32].tolist())
assert resized.max() > 256 / 255
dark = int((sent[24:] < 50).sum())
print("pixels below 50 in the white half:", dark)
assert dark > 0 and sent[-1] == 255
PY
