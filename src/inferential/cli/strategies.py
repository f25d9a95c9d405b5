"""Reads the options that name scheduling strategies."""

from __future__ import annotations

from inferential.cli.errors import CliError
from inferential.scheduler import get_scheduler, scheduler_names


def check_strategy(name: str, option: str = "--strategy") -> None:
    """Raises CliError, which names the option, where there is no strategy of that name."""
    try:
        get_scheduler(name)
    except ValueError as error:
        raise CliError(f"{option}: {error}") from error


def read_strategies(option: str, given: str) -> list[str]:
    """Returns the names that an option lists, separated by commas; `all` for all that there are.

    Raises:
        CliError: it names none, or one that there is not.
    """
    names = scheduler_names() if given == "all" else [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        check_strategy(name, option)
    if not names:
        raise CliError(f"{option}: expected strategies separated by commas, or `all`, got {given!r}")
    return list(names)


def compared_strategies(strategy: str, compare: str | None) -> list[str]:
    """Returns the strategies of `--strategy` and `--compare`, which goes before.

    Raises:
        CliError: as `read_strategies`.
    """
    if compare is not None:
        return read_strategies("--compare", compare)
    check_strategy(strategy)
    return [strategy]
