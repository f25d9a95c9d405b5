"""How a model runs: values that stand for a model where models are given by id.

It starts nothing: `LocalDispatcher` does.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TARGET = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


@dataclass(frozen=True)
class ModelProcess:
    """A model in one or more processes of its own, each with its own interpreter.

    The process imports the model itself; the server never does. It needs numpy and protobuf in its environment, and
    Python 3.10 or newer; the server brings this package along.

    Args:
        target: module:object; a function of one observation, an object with `infer` or `infer_batch`, or a class or
            function that makes one.
        args: keyword arguments that `target` is called with, values that JSON can hold.
        python: interpreter of another environment; the server's own by default.
        env: environment variables to add.
        replicas: how many processes; or, for each, further environment variables.
        load_timeout_s: how long importing and making the model may take.
        call_timeout_ms: how long one call may take; then its process is ended, and another one started.
        memory_limit_mb: resident memory (RSS) above which a process is ended, and another one started.
        warm_up: what is run before the model answers: a file of observations (.npz, .json), `module:function` which
            returns some, or "last": the newest that a robot has sent for the model.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        ```python
        from inferential import LocalDispatcher, ModelProcess

        dispatcher = LocalDispatcher({"pi0": ModelProcess("my_policies:Pi0", call_timeout_ms=2000)})
        ```
    """

    target: str
    args: Mapping[str, Any] = field(default_factory=dict)
    python: str | Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    replicas: int | Sequence[Mapping[str, str]] = 1
    load_timeout_s: float = 600.0
    call_timeout_ms: float | None = None
    memory_limit_mb: float | None = None
    warm_up: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.target, str):
            raise TypeError(f"target: expected module:object as text, got {type(self.target).__name__}")
        if not _TARGET.fullmatch(self.target):
            raise ValueError(f"target: expected module:object, got {self.target!r}")
        for key, value in self.args.items():
            try:
                json.dumps({key: value})
            except (TypeError, ValueError) as error:
                raise TypeError(f"args: {key!r}: expected a value that JSON can hold: {error}") from error
        if isinstance(self.replicas, int) and self.replicas < 1:
            raise ValueError(f"replicas: expected a number above 0, got {self.replicas}")
        if not self.environments():
            raise ValueError("replicas: expected at least one map of environment variables, got an empty list")
        for name in ("load_timeout_s", "call_timeout_ms", "memory_limit_mb"):
            _check_positive(name, getattr(self, name))

    def environments(self) -> list[dict[str, str]]:
        """Returns the environment variables to add, for each replica."""
        each = [{}] * self.replicas if isinstance(self.replicas, int) else self.replicas
        return [{**self.env, **one} for one in each]

    def settings(self) -> dict[str, Any]:
        """Returns what a worker must know to make the model; the server's path where it has the same interpreter."""
        path = [path for path in sys.path if path] if self.python is None else []
        return {"target": self.target, "args": dict(self.args), "path": path, "warm_up": self.warm_up}


@dataclass(frozen=True)
class ModelThread:
    """A model in threads of the server's process; what a sync model is by default.

    Args:
        model: as for `LocalDispatcher`.
        call_timeout_ms: how long one call may take; then its robot gets an error. The thread cannot be ended: its slot
            is lost until the call returns.

    Raises:
        ValueError: naming the argument.
    """

    model: Any
    call_timeout_ms: float | None = None

    def __post_init__(self) -> None:
        _check_positive("call_timeout_ms", self.call_timeout_ms)


@dataclass(frozen=True)
class ModelInline:
    """A model that runs on the server's event loop, for one whose call takes microseconds: everything else waits.

    Args:
        model: as for `LocalDispatcher`.
    """

    model: Any


@dataclass(frozen=True)
class ModelLoader:
    """A model of the server's process that is made once the server listens, in a thread; several load side by side.

    Args:
        make: returns the model, as for `LocalDispatcher`.
        inline: whether it runs on the event loop, rather than in threads.
        call_timeout_ms: as for `ModelThread`.
        warm_up: as for `ModelProcess`.
    """

    make: Callable[[], Any]
    inline: bool = False
    call_timeout_ms: float | None = None
    warm_up: str | None = None

    def spec_of(self, model: Any) -> ModelThread | ModelInline:
        """Returns how the model that was made is to run."""
        return ModelInline(model) if self.inline else ModelThread(model, self.call_timeout_ms)


def _check_positive(name: str, value: float | None) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a number above 0, got {value}")
