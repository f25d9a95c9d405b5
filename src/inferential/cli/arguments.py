"""Arguments that may be given in either order, as some commands have the address first, and others the name."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"[^\s/:]+:\d+|\[[0-9a-fA-F:]+\]:\d+|[a-z]+://.*", re.DOTALL)


def in_order(name: str, address: str) -> tuple[str, str]:
    """Returns a robot's or model's name and an address, also where they were given the other way round.

    That is where the first alone has a port or a scheme.
    """
    return (address, name) if is_address(name) and not is_address(address) else (name, address)


def is_address(text: str) -> bool:
    """Returns whether it is one, with a port or a scheme."""
    return _ADDRESS.fullmatch(text) is not None
