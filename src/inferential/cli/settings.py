"""What commands have in common of their configuration: options that set it, and the models in it.

It imports no model.
"""

from __future__ import annotations

from typing import Any

from inferential.cli.errors import CliError
from inferential.config.schema import InferentialConfig

COMMAND_LINE = "command line"


def targets(config: InferentialConfig) -> dict[str, str]:
    """Returns the target of each model, by model id; without models that only have settings."""
    found = {model_id: known.wanted_target() for model_id, known in config.models.known.items()}
    return {model_id: target for model_id, target in found.items() if target is not None}


def listener_section(option: str, address: str) -> dict[str, Any]:
    """Returns what an option `[HOST:]PORT` sets of its section.

    Raises:
        CliError: it has no port.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise CliError(f"{option}: expected PORT or HOST:PORT, got {address!r}")
    return {"port": int(port), **({"host": host.strip("[]")} if host else {})}
