"""Keys for a demo whose robots and server encrypt: made before it runs, in a folder that goes with it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from inferential.zmtp.certificates import write_certificates

if TYPE_CHECKING:
    from inferential.sim.link import InferentialLink
    from inferential.sim.robots import Robot


def make_keys(folder: Path, names: Iterable[str]) -> None:
    """Writes the keys of a server, and of robots by their names, to an empty folder.

    Raises:
        ImportError: PyNaCl is not installed.
    """
    from inferential.zmtp.curve import key_pair

    clients = folder / "clients"
    clients.mkdir()
    for place, name in ((folder, "server"), *((clients, name) for name in names)):
        keys = key_pair(os.urandom)
        write_certificates(place, name, keys.public, keys.secret)


def security_section(folder: str) -> dict[str, str]:
    """Returns the section `security` of a server with these keys."""
    return {"mode": "required", "server_key": f"{folder}/server.key_secret", "clients": f"{folder}/clients"}


def secure_link(robot: Robot, name: str, server: str, folder: str) -> InferentialLink:
    """Connects a robot by its key."""
    from inferential.sim.link import InferentialLink

    return InferentialLink(robot, name, server, f"{folder}/server.key", f"{folder}/clients/{name}.key_secret")
