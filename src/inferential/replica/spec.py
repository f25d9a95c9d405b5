"""How a model runs: values that stand for a model where models are given by id.

It starts nothing: `LocalDispatcher` does.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inferential.policies import split_target

_TARGET = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


@dataclass(frozen=True)
class ModelProcess:
    """A model in one or more processes of its own, each with its own interpreter.

    The process imports the model itself; the server never does. It needs numpy and protobuf in its environment, and
    Python 3.10 or newer; the server brings this package along.

    Args:
        target: module:object; a function of one observation, an object with `infer` or `infer_batch`, or a class or
            function that makes one. Or a policy in a file: onnx:FILE, torchscript:FILE, lerobot:FOLDER.
        args: keyword arguments that `target` is called with, values that JSON can hold.
        python: interpreter of another environment; the server's own by default.
        env: environment variables to add.
        replicas: how many processes; or, for each, further environment variables.
        load_timeout_s: how long importing and making the model may take.
        call_timeout_ms: how long one call may take; then its process is ended, and another one started.
        memory_limit_mb: resident memory (RSS) above which a process is ended, and another one started; that of
            processes which the model starts is not counted.
        warm_up: what is run before the model answers: a file of observations (.npz, .json), `module:function` which
            returns some, or "last": the newest that a robot has sent for the model.
        spare: whether a process more waits beside each, its modules imported, to follow it if it ends.
        background: whether the processes run on time alone that nothing else on their cores wants.

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
    spare: bool = False
    background: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.target, str):
            raise TypeError(f"target: expected module:object as text, got {type(self.target).__name__}")
        if split_target(self.target) is None and not _TARGET.fullmatch(self.target):
            raise ValueError(f"target: expected module:object, got {self.target!r}")
        if self.python is not None and not isinstance(self.python, str | os.PathLike):
            raise TypeError(f"python: expected the path of an interpreter, got {type(self.python).__name__}")
        _check_args(self.args)
        _check_environment("env", self.env)
        if isinstance(self.replicas, bool) or not isinstance(self.replicas, int | list | tuple):
            kind = type(self.replicas).__name__
            raise TypeError(f"replicas: expected a number or a list of maps of environment variables, got {kind}")
        if isinstance(self.replicas, int):
            if self.replicas < 1:
                raise ValueError(f"replicas: expected a number above 0, got {self.replicas}")
        else:
            for number, env in enumerate(self.replicas):
                _check_environment(f"replicas[{number}]", env)
        if not self.environments():
            raise ValueError("replicas: expected at least one map of environment variables, got an empty list")
        if self.load_timeout_s is None:
            raise TypeError("load_timeout_s: expected a number above 0, got None")
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


def _check_positive(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number above 0, got {value!r}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a number above 0, got {value}")


def _check_args(args: Any) -> None:
    if not isinstance(args, Mapping):
        raise TypeError(f"args: expected a map of keyword arguments, got {type(args).__name__}")
    for key, value in args.items():
        if not isinstance(key, str):
            raise TypeError(f"args: {key!r}: expected a name, got {type(key).__name__}")
        try:
            json.dumps({key: value})
        except (TypeError, ValueError) as error:
            raise TypeError(f"args: {key!r}: expected a value that JSON can hold: {error}") from error


def _check_environment(name: str, env: Any) -> None:
    if not isinstance(env, Mapping):
        raise TypeError(f"{name}: expected a map of environment variables, got {type(env).__name__}")
    for key, value in env.items():
        if not isinstance(key, str) or not isinstance(value, str):
            kind = type(value if isinstance(key, str) else key).__name__
            raise TypeError(f"{name}: {key!r}: expected text, got {kind}; as {{'CUDA_VISIBLE_DEVICES': '0'}}")
        if not key or "=" in key or "\0" in key + value:
            raise ValueError(f"{name}: {key!r}: the system has no environment variable of that name or value")
