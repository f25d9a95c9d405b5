"""`use_scheduler(strategy, **options)`: which option belongs where.

It builds a configuration; it makes no scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


def with_options(config: SchedulingConfig, strategy: str, options: Mapping[str, Any]) -> SchedulingConfig:
    """The configuration with another strategy and options of it, the old one left as it is.

    Args:
        config: what holds for all that is not told.
        strategy: a strategy's name.
        options: fields of the scheduling configuration, or of the section that bears the strategy's name.

    Raises:
        ValueError: naming an unknown option and those there are, or a bad value (pydantic's ValidationError).
    """
    fields = type(config).model_fields
    own = getattr(type(getattr(config, strategy, None)), "model_fields", {})
    unknown = [name for name in options if name not in fields and name not in own]
    if unknown:
        known = ", ".join(sorted((fields.keys() - {"strategy"}) | own.keys()))
        raise ValueError(f"unknown option {unknown[0]!r} of strategy {strategy!r}; known: {known}")
    changed = config.model_dump()
    changed["strategy"] = strategy
    for name, value in options.items():
        if name in own:
            changed[strategy][name] = value
        else:
            changed[name] = value
    return type(config).model_validate(changed)
