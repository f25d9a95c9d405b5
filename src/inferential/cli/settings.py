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


def overrides_of(
    models: list[str],
    bind: list[str],
    strategy: str | None,
    http: str | None,
    otlp: str | None,
    foxglove: str | None,
    *,
    record: bool,
) -> dict[str, Any]:
    """Returns what the options of `inferential serve` set in place of the file.

    Raises:
        CliError: an option is malformed.
    """
    known: dict[str, dict[str, str]] = {}
    for option in models:
        model_id, equals, target = option.partition("=")
        if not (equals and model_id and target):
            raise CliError(f"--model: expected ID=module:object, got {option!r}")
        if model_id in known:
            raise CliError(f"--model: {model_id!r} is given twice")
        known[model_id] = {"target": target}
    overrides: dict[str, Any] = {"models": {"known": known}}
    if bind:
        overrides["transport"] = {"bind": bind if len(bind) > 1 else bind[0]}
    if strategy is not None:
        overrides["scheduling"] = {"strategy": strategy}
    if http is not None:
        overrides["http"] = listener_section("--http", http)
    if foxglove is not None:
        overrides["foxglove"] = listener_section("--foxglove", foxglove)
    if record:
        overrides["recording"] = {}
    if otlp is not None:
        overrides["otlp"] = {"endpoint": otlp}
    return overrides
