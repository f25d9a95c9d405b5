"""Draws what a camera above the plate sees, from the ball's true position.

No rendering engine: a blob on a textured plate, with noise, in numpy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PIXELS = 48
HALF_WIDTH_M = 0.25
_BALL_PIXELS = 2.2  # radius of the blob
_NOISE = 8.0

_ROWS, _COLUMNS = np.mgrid[0:PIXELS, 0:PIXELS].astype(np.float32)
_TEXTURE = (60 + 12 * np.sin(_COLUMNS * 0.7) * np.cos(_ROWS * 0.5)).astype(np.float32)


def draw(position: npt.NDArray[np.floating], chance: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draws a ball at `position` (x, y) in metres from the plate's middle: shape (48, 48), uint8."""
    column = (position[0] / HALF_WIDTH_M + 1) * (PIXELS - 1) / 2
    row = (position[1] / HALF_WIDTH_M + 1) * (PIXELS - 1) / 2
    distance = np.hypot(_ROWS - row, _COLUMNS - column)
    cover = np.clip(_BALL_PIXELS + 0.5 - distance, 0, 1)  # anti-aliased rim
    image = _TEXTURE * (1 - cover) + 220 * cover + chance.normal(0, _NOISE, _TEXTURE.shape)
    seen: npt.NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return seen
