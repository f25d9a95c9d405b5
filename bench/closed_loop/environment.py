"""Environments with other software; the robots and what both need comes from ours.

The environment of 1.4.0 alone is another one: it has nothing beside it.
"""

from __future__ import annotations

from pathlib import Path

from bench.environments import made

PEERS = {
    "1.4.0": ("with_inferential_1_4.py", ("inferential==1.4.0",)),
    "LitServe": ("with_litserve.py", ("litserve==0.2.19", "protobuf")),
    "Ray Serve": ("with_ray_serve.py", ("ray[serve]==2.60.0", "protobuf")),
    "openpi-server": (
        "with_openpi.py",
        ("openpi-server==0.1.0", "openpi-client==0.1.2", "typing_extensions", "protobuf"),
    ),
}
"""By the name that is shown: the program, and what its environment has beside the robots."""


def python(name: str) -> Path:
    """Returns the interpreter of a peer.

    Raises:
        RuntimeError: pip could not install what is needed.
    """
    _, requirements = PEERS[name]
    return made(f"{requirements[0].replace('[serve]', '').replace('==', '-')}-robots", *requirements, beside_ours=True)


def program(name: str) -> Path:
    """Returns the file that runs a peer."""
    return Path(__file__).parent / "peers" / PEERS[name][0]
