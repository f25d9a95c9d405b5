"""Which device a policy of torch runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def torch_device(name: str | None) -> torch.device:
    """Returns the device of that name; "cuda" where there is one, else "cpu", without a name.

    Raises:
        ValueError: torch knows no such device, or there is none.
    """
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)  # torch makes a device of any name that it knows
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: {name!r}: {str(error).splitlines()[0]}") from None
    return device
