"""A replica: one model behind one protocol, in a process of its own.

Ray Serve starts replicas of a deployment (`direct`, in `deployment.py`); the server starts those of a `ModelProcess`
(`process.py`). Importing this package needs neither Ray nor ZeroMQ: a worker process may have none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inferential.replica.deployment import ONGOING, autoscaling_policy, direct

__all__ = ["ONGOING", "autoscaling_policy", "direct"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from inferential.replica import deployment

    return getattr(deployment, name)
