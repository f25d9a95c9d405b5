"""Checks the arguments of `Server`, and finds the backend where none is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inferential.config.schema import InferentialConfig
from inferential.dispatch.base import Dispatcher

DEFAULT_BIND = "tcp://*:5555"


def check_arguments(models: object, config: object, dispatcher: object) -> None:
    """Checks types, and that there is something to serve.

    Raises:
        TypeError, ValueError: naming the argument, its value and what is expected.
    """
    if isinstance(models, str):
        raise TypeError(f"models: expected a sequence of ids, as [{models!r}], got {models!r}")
    if isinstance(models, Sequence) and not models:
        raise ValueError(
            "models: expected at least one id, got an empty sequence; name the Ray Serve applications or deployments "
            "to serve, as models=['policy'], or leave it out to serve all"
        )
    if config is not None and not isinstance(config, InferentialConfig):
        makers = "load_config(path) or InferentialConfig.model_validate(dict) makes one"
        raise TypeError(f"config: expected an InferentialConfig, got {type(config).__name__}; {makers}")
    if dispatcher is not None and not isinstance(dispatcher, Dispatcher):
        kind = type(dispatcher).__name__
        raise TypeError(f"dispatcher: expected one, as LocalDispatcher({{'my-model': my_model}}), got {kind}")


def configured(config: InferentialConfig | None, bind: str | Sequence[str | Mapping[str, str]]) -> InferentialConfig:
    """Returns a copy of the configuration, with `bind` in force if it is not the default.

    Raises:
        ValueError: the address is not one to listen on.
    """
    config = InferentialConfig() if config is None else config.model_copy(deep=True)
    if bind != DEFAULT_BIND:
        try:
            config.transport.bind = bind if isinstance(bind, str) else list(bind)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # its text is pydantic's
            expected = "tcp://HOST:PORT (tcp://*:5555: every interface), ipc://PATH, or a list of them"
            raise ValueError(f"bind: expected {expected}, got {bind!r}") from None
    return config


def ray_dispatcher(ray_config: Mapping[str, Any], models: Sequence[str] | None) -> Dispatcher:
    """Returns the backend that serves from Ray Serve.

    Raises:
        ImportError: Ray is not installed.
    """
    try:
        from inferential.dispatch.ray.dispatcher import RayDispatcher
    except ModuleNotFoundError as error:
        raise ImportError(
            f"dispatcher: none given, and {error.name} is not installed, which serving from Ray needs: "
            "pip install 'inferential[server]', or Server(dispatcher=LocalDispatcher({'my-model': my_model}))"
        ) from error
    return RayDispatcher(dict(ray_config), models)
