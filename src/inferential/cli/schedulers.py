"""`inferential schedulers`.

What a strategy does in detail is in docs/schedulers.md.
"""

from __future__ import annotations

from typing import Annotated

import typer

from inferential.cli.output import print_json, print_rows
from inferential.config.schema import SchedulingConfig

EXAMPLES = ("inferential schedulers", "inferential schedulers --json")


def schedulers(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the scheduling strategies there are.

    Those of installed packages are among them (entry points of the group inferential.schedulers).
    """
    found = [_described(name) for name in strategy_names()]
    if as_json:
        print_json(found)
    else:
        rows = [(str(one["name"]), str(one["description"]) + (" (default)" if one["default"] else "")) for one in found]
        print_rows(("strategy", "order"), rows)


def strategy_names() -> list[str]:
    """Returns the names of all strategies; imports the built-in ones."""
    from inferential.scheduler import scheduler_names  # registers the built-in ones

    return scheduler_names()


def _described(name: str) -> dict[str, str | bool]:
    from inferential.scheduler import get_scheduler

    try:
        factory = get_scheduler(name)
    except Exception as error:  # another package's code
        module, description = "", f"cannot be imported: {type(error).__name__}: {error}"
    else:
        module = factory.__module__
        description = next(iter((factory.__doc__ or "").strip().splitlines()), "")
    default = SchedulingConfig.model_fields["strategy"].default
    return {"name": name, "description": description, "module": module, "default": name == default}
