"""The waiting requests of one client for one model."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from inferential.scheduler.request import InferenceRequest


@dataclass(slots=True)
class ClientQueue:
    """The waiting requests of one client, or one connection whatever client ids it uses, for one model."""

    shown: dict[InferenceRequest, None] = field(default_factory=dict)
    """Submitted to the strategy."""
    behind: OrderedDict[InferenceRequest, None] = field(default_factory=OrderedDict)
    """Waiting behind those."""
    latest: InferenceRequest | None = None
    """The request that a newer observation supersedes; None: none of the waiting ones."""
