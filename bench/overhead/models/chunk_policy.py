"""A transformer policy in plain torch: images in, action chunks out. A process of its own imports this file alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

IMAGE = (224, 224, 3)
STATE = 14
CHUNK = (50, 14)
_PATCH = 16


class Net(nn.Module):
    """Patches of an image and a state, through an encoder, to a chunk of actions."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, _PATCH, _PATCH)
        self.state = nn.Linear(STATE, width)
        layer = nn.TransformerEncoderLayer(width, max(width // 64, 1), 4 * width, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.actions = nn.Linear(width, CHUNK[0] * CHUNK[1])

    def forward(self, images: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Returns chunks (batch, 50, 14) for images (batch, 224, 224, 3) in bytes and states (batch, 14)."""
        pixels = images.permute(0, 3, 1, 2).to(states.dtype) / 255
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.state(states)[:, None], tokens), 1)
        return self.actions(self.encoder(tokens)[:, 0]).view(-1, *CHUNK)


class ChunkPolicy:
    """The net on a device.

    Args:
        width, layers: of the net; 1024 and 24 are 300 million parameters.
        device: as torch names it; "" for the first GPU, or the CPU where there is none.
        max_batch_size: rows that a call takes.
    """

    def __init__(self, width: int = 1024, layers: int = 24, device: str = "", max_batch_size: int = 16) -> None:
        self.max_batch_size = max_batch_size
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        self._net = Net(width, layers).to(self._device, self._dtype).eval()
        for rows in (1, max_batch_size):  # first calls of a size allocate
            self.infer_batch([{"image": np.zeros(IMAGE, np.uint8), "state": np.zeros(STATE, np.float32)}] * rows)

    @torch.inference_mode()
    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        """Returns a chunk for each observation."""
        images = torch.from_numpy(np.stack([each["image"] for each in observations]))
        states = torch.from_numpy(np.stack([each["state"] for each in observations]))
        found = self._net(images.to(self._device), states.to(self._device, self._dtype))
        return list(found.float().cpu().numpy())
