"""`use_scheduler(strategy, **options)`: which option belongs where.

It builds a configuration; it makes no scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inferential.config.schema import SchedulingConfig


def with_options(config: SchedulingConfig, strategy: str, options: Mapping[str, Any]) -> SchedulingConfig:
    """Returns the configuration with another strategy and its options; the given one is left as it is.

    Args:
        config: the configuration to start from.
        strategy: a strategy's name.
        options: fields of the scheduling configuration, or of the section that bears the strategy's name.

    Raises:
        ValueError: naming an unknown option and those there are, or a bad value (pydantic's ValidationError).
    """
    fields = type(config).model_fields.keys() - {"strategy"}
    own = getattr(type(getattr(config, strategy, None)), "model_fields", {}).keys()
    unknown = [name for name in options if name not in fields and name not in own]
    if unknown:
        known = ", ".join(sorted(fields | own))
        raise ValueError(f"unknown option {unknown[0]!r} of strategy {strategy!r}; known: {known}")
    shared = {name: value for name, value in options.items() if name not in own}
    changed = type(config).model_validate({**config.model_dump(), **shared, "strategy": strategy}).model_dump()
    # After the shared ones, among which the whole section may be.
    if own:
        changed[strategy].update({name: value for name, value in options.items() if name in own})
    return type(config).model_validate(changed)
