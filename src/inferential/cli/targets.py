"""From `module:object` in a configuration or on the command line to a model.

The rule, for what `object` is:

- a class: it is called without arguments, and its instance is the model;
- something with `infer` or `infer_batch`: it is the model;
- something that can be called with one argument, the observation: it is the model;
- any other function: it is called without arguments, and what it gives is the model;

and `SCHEME://...` leads to what the backend of that scheme makes of it: `openpi://host:port` (`openpi+wss://` for TLS)
to a policy server of openpi, others by entry points of the group `inferential.backends`.

It runs no model. Modules are found among what is installed and in the current directory.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from inferential.cli.errors import CliError
from inferential.config.backends import scheme_of
from inferential.config.extensions import BACKENDS, extension_names, load_extension
from inferential.config.schema import ModelConfig


def load_models(
    targets: Mapping[str, str], settings: Mapping[str, ModelConfig] = MappingProxyType({})
) -> dict[str, Any]:
    """The models, by id.

    Args:
        targets: `module:object` by model id.
        settings: of the models, where there are any (`models.known`).

    Raises:
        CliError: one cannot be had; the text names its id and target, and where in its module it failed.
    """
    return {model_id: load_model(model_id, target, settings.get(model_id)) for model_id, target in targets.items()}


def load_model(model_id: str, target: str, settings: ModelConfig | None = None) -> Any:
    """The model that a target leads to.

    Raises:
        CliError: there is none.
    """
    try:
        if (scheme := scheme_of(target)) is not None:
            return _backend(scheme)(target, settings or ModelConfig())
        for name in ("timeout_ms", "api_key"):
            if settings is not None and getattr(settings, name) is not None:
                raise CliError(f"models.known.{model_id}.{name} is for openpi:// targets only; leave it out")
        return _model(_find(target), target)
    except (CliError, ValueError) as error:
        raise CliError(f"model {model_id!r}, target {target!r}: {error}") from error.__cause__


def open_policy_server(target: str, settings: ModelConfig) -> Any:
    """Returns a policy server of openpi as a model: the backend of `openpi://` and `openpi+wss://`.

    Args:
        target: its address.
        settings: of the model; `timeout_ms` and `api_key` are used.
    """
    from inferential.dispatch.openpi import DEFAULT_TIMEOUT_S, OpenPiModel

    api_key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return OpenPiModel(target, api_key, DEFAULT_TIMEOUT_S if settings.timeout_ms is None else settings.timeout_ms / 1e3)


def _backend(scheme: str) -> Callable[[str, ModelConfig], Any]:
    try:
        backend = load_extension(BACKENDS, scheme)
    except KeyError:
        known = ", ".join(f"{name}://" for name in extension_names(BACKENDS))
        raise CliError(f"no backend has the scheme {scheme!r}; expected module:object or one of {known}") from None
    if not callable(backend):
        raise CliError(f"backend {scheme!r}: expected a function of a target and its settings, got {backend!r}")
    return cast("Callable[[str, ModelConfig], Any]", backend)


def _find(target: str) -> Any:
    module_name, _, names = target.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            file = f"; of a file it is the name without .py: {module_name[:-3]}" if module_name.endswith(".py") else ""
            raise CliError(f"no module {error.name!r}, neither installed nor in {os.getcwd()}{file}") from error
        raise CliError(f"importing it failed: {_in_words(error)}") from error
    except Exception as error:
        raise CliError(f"importing it failed: {_in_words(error)}") from error
    path = module_name
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            close = difflib.get_close_matches(name, dir(found), n=1)
            raise CliError(f"{path} has no {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")) from error
        path = f"{path}.{name}"
    return found


def _model(found: Any, target: str) -> Any:
    if isinstance(found, type) or not (_is_model(found) or not callable(found)):
        found = _built(found, target)
    if not _is_model(found):
        raise CliError(
            f"expected a model (an object with infer(observation) or infer_batch(observations), or a function of an "
            f"observation), or a class or a function without parameters that makes one, got {type(found).__name__}"
        )
    return found


def _is_model(found: Any) -> bool:
    return hasattr(found, "infer") or hasattr(found, "infer_batch") or (callable(found) and _takes_one(found))


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have none
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(one.kind in (*positional, inspect.Parameter.VAR_POSITIONAL) for one in parameters)


def _built(make: Callable[[], Any], target: str) -> Any:
    try:
        model = make()
    except Exception as error:
        raise CliError(f"calling it to make the model failed: {_in_words(error)}") from error
    if inspect.iscoroutine(model):
        model.close()
        raise CliError("it is an async function without parameters; what makes a model must not be async")
    return model


def _in_words(error: Exception) -> str:
    """Type, message and place, on one line."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}:{error.lineno})"
    text = " ".join(f"{type(error).__name__}: {error}".split())
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    last = frames[-1]
    return text if last.filename == __file__ else f"{text} ({last.filename}:{last.lineno})"
