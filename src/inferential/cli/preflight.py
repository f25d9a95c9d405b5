"""Checks, before a server starts, what the schema cannot: ports, mixed backends, profiles, packages, the strategy.

Nothing is started and no model imported; whether an address is free, only `serve` finds out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inferential.cli.settings import targets
from inferential.config.backends import ray_name
from inferential.config.exposure import NEITHER, unprotected
from inferential.config.fields import Key, format_path
from inferential.config.gateways import ANY_MODEL
from inferential.config.loading import OVERRIDES, Loaded, load_usable
from inferential.config.problems import ConfigError, Problem, closest
from inferential.config.profiles import load_profiles
from inferential.config.schema import InferentialConfig
from inferential.config.services import GatewayConfig, ListenerConfig, services
from inferential.scheduler.time.profile import Profiles
from inferential.transport.client_keys import read_folder
from inferential.transport.listening import LARGEST_PORT
from inferential.zmtp.certificates import CertificateError, read_certificate
from inferential.zmtp.ipc import MAX_PATH_BYTES, path_bytes

_EVERYWHERE = "*"


def preflight(loaded: Loaded) -> list[Problem]:
    """Returns all problems but those of the strategy."""
    return [
        *_mixed(loaded),
        *_unusable_addresses(loaded),
        *_shared_ports(loaded),
        *_bad_profiles(loaded),
        *_unusable_keys(loaded),
        *_unprotected(loaded),
    ]


def load_checked(
    path: Path | None, overrides: Mapping[str, Any] | None = None, overrides_name: str = OVERRIDES
) -> Loaded:
    """Reads a configuration as `config.loading.load` does.

    Raises:
        ConfigError: with all that is wrong with its values, as far as that is seen before the others are right.
    """
    loaded, problems = load_usable(path, overrides=overrides, overrides_name=overrides_name)
    if problems:
        raise ConfigError([*problems, *_further_problems(loaded)])
    return loaded


def _further_problems(usable: Loaded) -> list[Problem]:
    """Returns what is wrong with single values of a configuration of which other values are wrong and left out."""
    if any(model.run != "process" for model in usable.config.models.known.values()):
        strategy = None  # their modules may register it
    else:
        strategy = strategy_problem(usable)
    found = [*_unusable_addresses(usable), *_bad_profiles(usable), *_unusable_keys(usable)]
    return [*found, strategy] if strategy is not None else found


def strategy_problem(loaded: Loaded) -> Problem | None:
    """Returns what is wrong with the strategy. Call it after importing models, which may register strategies."""
    from inferential.scheduler import create_scheduler, scheduler_names

    name, known = loaded.config.scheduling.strategy, scheduler_names()
    if name not in known:
        expected = f"expected one of {', '.join(known)}, got '{name}'"
        return _problem(loaded, ("scheduling", "strategy"), expected + closest(name, known))
    try:
        create_scheduler(loaded.config.scheduling)
    except Exception as error:  # another package's code
        return _problem(loaded, ("scheduling", "strategy"), f"{name} cannot be made: {type(error).__name__}: {error}")
    return None


def missing_packages(loaded: Loaded) -> list[Problem]:
    """Returns a problem for each package that the configuration needs and that is not installed."""
    found = []
    for model_id, target in targets(loaded.config).items():
        if ray_name(target) is not None and not is_installed("ray"):
            found.append(_problem(loaded, _target(model_id), "needs ray: pip install 'inferential[server]'"))
    for place, section in services(loaded.config):
        if section.package and not is_installed(section.package):
            hint = f"needs {section.package}: pip install 'inferential[{section.extra}]'"
            found.append(_problem(loaded, place, hint))
    return found


def unserved(config: InferentialConfig) -> list[str]:
    """Returns a warning for each place that names a model which is not served, as one whose name is misspelt."""
    served = targets(config)
    found = [
        f"models.known.{model_id} has settings but no target: it is not served"
        for model_id in sorted(config.models.known.keys() - served)
    ]
    for where, section in services(config):
        if isinstance(section, GatewayConfig) and section.model not in (*served, ANY_MODEL):
            key = format_path((*where, "model"))
            found.append(
                f"{key}: {section.model!r} is not served: its robots will be refused{_meant(section.model, served)}"
            )
    for number, entry in enumerate(config.clients.known):
        for name, model_ids in (("model", [entry.model]), ("models", entry.models or ())):
            for model_id in model_ids:
                if model_id not in served:
                    key = f"clients.known[{number}].{name}"
                    found.append(f"{key}: {model_id!r} is not served{_meant(model_id, served)}")
    return found


def _meant(model_id: str, served: Mapping[str, str]) -> str:
    return closest(model_id, list(served)) or f"; there is: {', '.join(sorted(served))}"


def listeners(config: InferentialConfig) -> list[tuple[str, str]]:
    """Returns what a server of this configuration will listen on or connect to: an address, and what is there."""
    found = [(one.bind, _robots(one.security, config)) for one in config.transport.addresses]
    for _, section in services(config):
        address = section.address()
        found.append((address.url, address.purpose))
    return found


def _robots(own: str | None, config: InferentialConfig) -> str:
    keys = {"off": "", "optional": ", keys optional", "required": ", keys required"}
    return f"robots (ZeroMQ{keys[own or config.security.mode]})"


def _mixed(loaded: Loaded) -> Iterator[Problem]:
    wanted = targets(loaded.config)
    here = sorted(model_id for model_id, target in wanted.items() if ray_name(target) is None)
    on_ray = sorted(wanted.keys() - set(here))
    if here and on_ray:
        yield _problem(
            loaded,
            _target(here[0]),
            f"a server has its models either on Ray Serve or in its own process, and {', '.join(on_ray)} are on Ray "
            f"Serve: start another server for {', '.join(here)}",
        )


def _unusable_addresses(loaded: Loaded) -> Iterator[Problem]:
    for key, bind in _binds(loaded.config):
        kind, _, place = bind.partition("://")
        port = place.rpartition(":")[2]
        if kind == "tcp" and port.isdecimal() and int(port) > LARGEST_PORT:
            yield _problem(loaded, key, f"expected a port of at most {LARGEST_PORT}, got {port}")
        if kind == "ipc" and path_bytes(place) > MAX_PATH_BYTES:
            expected = f"expected a path of at most {MAX_PATH_BYTES} bytes, got {path_bytes(place)}"
            yield _problem(loaded, key, expected)
    for where, section in services(loaded.config):
        if isinstance(section, ListenerConfig) and section.host == "*" != section.every_interface:
            expected = f"expected {section.every_interface} for every interface, got '*'"
            yield _problem(loaded, (*where, "host"), expected)


def _binds(config: InferentialConfig) -> Iterator[tuple[Key, str]]:
    """Yields the addresses for robots, and where each stands."""
    alone = not isinstance(config.transport.bind, list)
    for number, one in enumerate(config.transport.addresses):
        yield ("transport", "bind") if alone else ("transport", "bind", number), one.bind


def _shared_ports(loaded: Loaded) -> Iterator[Problem]:
    taken: list[tuple[str, str, int]] = []
    for key, host, port in _listening(loaded):
        path, host = format_path(key), "127.0.0.1" if host == "localhost" else host.strip("[]")
        for other, there, same in taken:
            if port == same and (_includes(host, there) or _includes(there, host)):
                yield _problem(loaded, key, f"expected a port of its own, got {port}, that of {other}")
                break
        taken.append((path, host, port))


def _includes(host: str, other: str) -> bool:
    """Returns whether who listens on a host has the ports of another one too."""
    if host in (_EVERYWHERE, other):
        return True
    return (host == "0.0.0.0" and ":" not in other) or (host == "::" and ":" in other)


def _listening(loaded: Loaded) -> Iterator[tuple[Key, str, int]]:
    """Yields where it will listen, as far as the ports are fixed."""
    config = loaded.config
    for key, bind in _binds(config):
        kind, _, robots = bind.partition("://")
        host, _, number = robots.rpartition(":")
        if kind == "tcp" and number.isdecimal() and int(number):
            yield key, host, int(number)
    for place, section in services(config):
        service = section.address().bind
        if service is not None and service[1]:
            host = _EVERYWHERE if service[0] == "::" else service[0]  # its socket takes IPv4 too
            yield (*place, "port"), host, service[1]


def _bad_profiles(loaded: Loaded) -> Iterator[Problem]:
    path = loaded.config.models.profiles
    if path is None:
        return
    try:
        load_profiles(Profiles(loaded.config.scheduling.slo_aware.latency_quantile), path)
    except ConfigError as error:
        for problem in error.problems:
            yield _problem(loaded, ("models", "profiles"), str(problem))


def _unusable_keys(loaded: Loaded) -> Iterator[Problem]:
    security = loaded.config.security
    if security.mode == "off" or security.server_key is None or security.clients is None:
        return
    try:
        if read_certificate(security.server_key).secret_key is None:
            yield _problem(loaded, ("security", "server_key"), "expected the secret NAME.key_secret, got a public key")
    except CertificateError as error:
        yield _problem(loaded, ("security", "server_key"), f"{error}; `inferential keys new server` makes one")
    try:
        _, problems = read_folder(Path(security.clients), {})
    except CertificateError as error:
        problems = [f"{error}; `inferential keys new server` makes it"]
    for problem in problems:
        yield _problem(loaded, ("security", "clients"), problem)


def _unprotected(loaded: Loaded) -> Iterator[Problem]:
    for place, remedy in unprotected(loaded.config):
        yield _problem(loaded, place, f"{NEITHER}: {remedy}, or leave the section out")


def _target(model_id: str) -> Key:
    return ("models", "known", model_id, "target")


def _problem(loaded: Loaded, key: Key, message: str) -> Problem:
    return Problem(format_path(key), message, loaded.source_of(key))


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False
