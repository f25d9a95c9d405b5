"""From a target in a configuration or on the command line to a model.

`module:object` leads to a model as `replica.targets` says, and `SCHEME://...` to what the backend of that scheme
makes of it: `openpi://host:port` (`openpi+wss://` for TLS) to a policy server of openpi, others by entry points of the
group `inferential.backends`. No model is run here.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

from inferential.cli.errors import CliError
from inferential.config.backends import ray_name, scheme_of
from inferential.config.extensions import BACKENDS, extension_names, load_extension
from inferential.config.schema import ModelConfig
from inferential.config.tensors import check_declared, with_declared
from inferential.dispatch.local import LocalDispatcher
from inferential.replica.outcomes import ModelLoadError
from inferential.replica.spec import ModelInline, ModelLoader, ModelProcess, ModelThread
from inferential.replica.targets import TargetError, load_target

_OF_POLICY_SERVERS = ("timeout_ms", "api_key")
_OF_PROCESSES = ("python", "env", "replicas", "load_timeout_s", "memory_limit_mb", "spare", "background")


def load_models(targets: Mapping[str, str], known: Mapping[str, ModelConfig] | None = None) -> dict[str, Any]:
    """Returns the models, by id, as `LocalDispatcher` takes them.

    Args:
        targets: `module:object` by model id.
        known: how each runs; a model that is not in it runs in threads.

    Raises:
        CliError: one cannot be had; the text names its id and target, and where in its module it failed.
    """
    return {model_id: load_model(model_id, target, (known or {}).get(model_id)) for model_id, target in targets.items()}


def load_model(model_id: str, target: str, config: ModelConfig | None = None) -> Any:
    """Returns the model that a target leads to; one that runs in processes is loaded by them.

    Raises:
        CliError: there is none.
    """
    config = config or ModelConfig(run="thread")
    try:
        if (scheme := scheme_of(target)) is not None:
            return _backend(scheme)(target, config)
        _check_settings(model_id, config)
        if config.run == "process":
            return _process(target, config)
        model = load_target(target, config.args)
        if config.run == "inline":
            return ModelInline(model)
        return model if config.call_timeout_ms is None else ModelThread(model, config.call_timeout_ms)
    except (TargetError, ValueError) as error:
        raise CliError(f"model {model_id!r}, target {target!r}: {error}") from error.__cause__


def model_later(model_id: str, config: ModelConfig) -> Any:
    """Does what `load_model` does, for a server that listens already: no model is imported before it loads.

    Raises:
        CliError: the settings do not fit the target.
    """
    target = config.target or ""
    if (name := ray_name(target)) is not None:
        return name
    if scheme_of(target) is not None or config.run == "process":
        return load_model(model_id, target, config)
    try:
        _check_settings(model_id, config)
    except (TargetError, ValueError) as error:
        raise CliError(f"model {model_id!r}, target {target!r}: {error}") from error.__cause__
    make = functools.partial(load_target, target, config.args)
    return ModelLoader(make, config.run == "inline", config.call_timeout_ms, config.warm_up)


def _check_settings(model_id: str, config: ModelConfig) -> None:
    """Raises TargetError where settings of a target of the form module:object do not fit how it runs."""
    for name in _OF_POLICY_SERVERS:
        if getattr(config, name) is not None:
            raise TargetError(f"models.known.{model_id}.{name} is for openpi:// targets only; leave it out")
    if config.run == "process":
        return
    for name in _OF_PROCESSES:
        if name in config.model_fields_set:
            raise TargetError(f"{name}: only a model with run: process has it, this one has run: {config.run}")
    if config.run == "inline" and config.call_timeout_ms is not None:
        raise TargetError("call_timeout_ms: nothing can end a call that runs inline; make it run: process")


def try_model(model_id: str, target: str, config: ModelConfig | None) -> Mapping[str, Any]:
    """Loads a model as the server would, in processes where it runs in such, and ends it again.

    Returns:
        What the model says of itself, and its `max_batch_size`; no more than that of one behind another server, which
        need not be up yet.

    Raises:
        CliError: it cannot be loaded.
    """

    # Before there is an event loop, for which the first Ctrl-C would wait until the model is imported and made.
    model = load_model(model_id, target, config)

    async def run() -> Mapping[str, Any]:
        dispatcher = LocalDispatcher({model_id: model})
        await dispatcher.start()
        try:
            said = {} if scheme_of(target) is not None else await dispatcher.model_metadata(model_id)
            said = {**said, "max_batch_size": dispatcher.max_batch_size(model_id)}
            if config is not None:
                check_declared(said, config.inputs)
            return said if config is None else with_declared(said, config.inputs, config.outputs)
        finally:
            await dispatcher.close()

    try:
        return asyncio.run(run())
    except (ModelLoadError, TypeError, ValueError) as error:
        raise CliError(str(error)) from error


def open_policy_server(target: str, settings: ModelConfig) -> Any:
    """Returns a policy server of openpi as a model: the backend of `openpi://` and `openpi+wss://`.

    Args:
        target: its address.
        settings: of the model; `timeout_ms` and `api_key` are used.
    """
    from inferential.dispatch.openpi import DEFAULT_TIMEOUT_S, OpenPiModel

    api_key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return OpenPiModel(target, api_key, DEFAULT_TIMEOUT_S if settings.timeout_ms is None else settings.timeout_ms / 1e3)


def open_kserve(target: str, settings: ModelConfig) -> Any:
    """Returns a model of a server of the Open Inference Protocol: the backend of `kserve://` and `kserve+https://`.

    Args:
        target: its address.
        settings: of the model; `timeout_ms` and `api_key` are used.
    """
    try:
        from inferential.dispatch.kserve import DEFAULT_TIMEOUT_S, KServeModel
    except ModuleNotFoundError as error:
        raise TargetError(f"{error.name} is not installed: pip install 'inferential[kserve]'") from error

    api_key = None if settings.api_key is None else settings.api_key.get_secret_value()
    return KServeModel(target, api_key, DEFAULT_TIMEOUT_S if settings.timeout_ms is None else settings.timeout_ms / 1e3)


def _backend(scheme: str) -> Callable[[str, ModelConfig], Any]:
    try:
        backend = load_extension(BACKENDS, scheme)
    except KeyError:
        known = ", ".join(f"{name}://" for name in extension_names(BACKENDS))
        raise CliError(f"no backend has the scheme {scheme!r}; expected module:object or one of {known}") from None
    if not callable(backend):
        raise CliError(f"backend {scheme!r}: expected a function of a target and its settings, got {backend!r}")
    return cast("Callable[[str, ModelConfig], Any]", backend)


def _process(target: str, config: ModelConfig) -> ModelProcess:
    return ModelProcess(
        target,
        args=config.args,
        python=config.python,
        env=config.env,
        replicas=config.replicas,
        load_timeout_s=config.load_timeout_s,
        call_timeout_ms=config.call_timeout_ms,
        memory_limit_mb=config.memory_limit_mb,
        spare=config.spare,
        background=config.background,
        warm_up=config.warm_up,
    )
