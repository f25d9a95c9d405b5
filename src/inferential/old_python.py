"""What of the package a Python has that is too old for the server: the robot's side and model workers, no more."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

ROOMS = (
    "client",
    "dtype_names",
    "errors",
    "notices",
    "old_python",
    "policies",
    "proto",
    "replica",
    "wall_clock",
    "zmtp",
)
"""Modules and packages of `inferential` that run on Python 3.10, where ROS 2 Humble has it."""


class _ServerRefused:
    """Finds no module; it is asked first, and refuses those of the server."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        package, _, module = name.partition(".")
        if package == "inferential" and module and module.partition(".")[0] not in ROOMS:
            found = ".".join(map(str, sys.version_info[:3]))
            raise ImportError(
                f"{name} needs Python 3.11 or newer, this is {found} ({sys.executable}); robots (Connection, "
                "AsyncConnection, ChunkRuntime) and model workers run on Python 3.10 too"
            )


def refuse_server() -> None:
    """Makes every import of a module of the server's an ImportError that names the Python it needs."""
    sys.meta_path.insert(0, _ServerRefused())
