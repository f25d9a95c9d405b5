"""`inferential serve`.

It only puts together what the package has: configuration, models, server and watcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inferential.cli.errors import CliError, missing
from inferential.cli.interrupts import EndedBeforeTheLoop, Interrupts, draining, signals_before_the_loop
from inferential.cli.logs import LogFormat, LogLevel, set_up_logging
from inferential.cli.output import announce
from inferential.cli.preflight import load_checked, missing_packages, preflight, strategy_problem, unserved
from inferential.cli.reloads import Reloads
from inferential.cli.settings import COMMAND_LINE, overrides_of, targets
from inferential.cli.targets import model_later
from inferential.config.backends import ray_name, scheme_of
from inferential.config.extensions import ExtensionError
from inferential.config.fields import format_path
from inferential.config.loading import Loaded
from inferential.config.problems import ConfigError
from inferential.config.schema import InferentialConfig
from inferential.config.services import GatewayConfig, ServiceConfig, services
from inferential.config.watcher import ConfigWatcher
from inferential.dispatch.base import Dispatcher
from inferential.dispatch.local import LocalDispatcher
from inferential.dispatch.started_tasks import run_contained
from inferential.errors import place_of
from inferential.policies import split_target
from inferential.replica.outcomes import ModelLoadError
from inferential.replica.targets import TargetError, find_target
from inferential.server import Server
from inferential.server.service import NoRoom, service_class

if TYPE_CHECKING:
    from inferential.cluster import ServerGroup

logger: logging.Logger = logging.getLogger("inferential.serve")

EXAMPLES = (
    "inferential serve fleet.yaml",
    "inferential serve --model arm=policies:ArmPolicy",
    "inferential serve --model arm=onnx:arm.onnx",
    "inferential serve fleet.toml --bind tcp://127.0.0.1:6000",
    "inferential serve fleet.yaml --http 8080",
    "inferential serve fleet.yaml --record",
    "inferential serve fleet.yaml --otlp http://localhost:4318",
    "inferential serve fleet.yaml --strategy round_robin --log-level debug",
    "inferential serve --model arm=ray:policy-v2",
    "inferential serve --model arm=ray:policy-v2 --servers 4",
)


def serve(
    config: Annotated[
        Path | None, typer.Argument(help="YAML, TOML or JSON file, reloaded when it changes and on SIGHUP.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="ID=MODULE:OBJECT", help="A model to serve; may be given several times."),
    ] = None,
    bind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on, as tcp://*:5555; may be given several times; outranks transport.bind.",
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Scheduling strategy, see `inferential schedulers`; outranks the file.")
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="Serve the live page, /metrics and health there; see docs/page.md."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Record what robots send and are answered, to the folder recordings.")
    ] = False,
    foxglove: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="Show them live in Foxglove, as 8765 on this machine.")
    ] = None,
    otlp: Annotated[
        str | None, typer.Option(metavar="URL", help="Export traces and metrics there (OpenTelemetry, OTLP over HTTP).")
    ] = None,
    servers: Annotated[
        int, typer.Option(min=1, help="Servers, each a Ray actor, on ports from that of --bind on; models on Ray only.")
    ] = 1,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged, to standard error.")] = LogLevel.info,
    log_format: Annotated[LogFormat, typer.Option(help="json: one object a line.")] = LogFormat.text,
) -> None:
    """Serve models to robots.

    MODULE:OBJECT is a model (a function of an observation, or an object with infer or infer_batch), or a class or a
    function without parameters that makes one. Modules are also found in the current directory. Models can stand in
    the file too, as models.known.ID.target.

    onnx:FILE, torchscript:FILE and lerobot:FOLDER are policies from files.

    ray:APPLICATION, ray:APPLICATION/DEPLOYMENT or ray:DEPLOYMENT is a model on
    Ray Serve, which need not be up yet. Robots of several servers are given the
    printed list of addresses, and spread over them by themselves.

    Prints one line when it listens. SIGINT and SIGTERM end it, after it has served what it has; a second Ctrl-C ends it
    at once.
    """
    set_up_logging(log_level, log_format)
    with signals_before_the_loop():
        overrides = overrides_of(model or [], bind or [], strategy, http, otlp, foxglove, record=record)
        _serve(config, overrides, servers)


def _serve(config: Path | None, overrides: dict[str, Any], servers: int) -> None:
    # Before the file is read: models may take long to import, and it may change meanwhile.
    watcher = ConfigWatcher(config, overrides=overrides, overrides_name=COMMAND_LINE)
    try:
        loaded = load_checked(config, overrides, COMMAND_LINE)
    except ConfigError as error:
        raise CliError(str(error)) from error
    if servers > 1:
        drain_timeout_s = loaded.config.server.drain_timeout_s
        asyncio.run(_run_servers(_several(loaded, config, servers), watcher, drain_timeout_s))
        return
    server = _build(loaded, config)
    watcher.on_reload(Reloads(server).take_on)
    try:
        run_contained(_run(server, watcher))
    except EndedBeforeTheLoop:
        raise
    except SystemExit as error:  # of what no model began, which asyncio lets pass to what runs the event loop
        remedy = "a model that does so harms itself alone with run: process"
        logger.error("the server ends: what runs in it called sys.exit%s; %s", place_of(error), remedy)
        raise


class _AnnouncedServer(Server):
    """A server that prints, once all listens, a line of itself and one for each gateway and page beside it."""

    def __init__(self, config: InferentialConfig, dispatcher: Dispatcher) -> None:
        super().__init__(config=config, dispatcher=dispatcher)
        self.manage_models(model_later)
        self._beside = contextlib.AsyncExitStack()
        self._after = contextlib.AsyncExitStack()  # ends when the last request has
        self._lines: dict[tuple[str, ...], str] = {}  # about what is open, by its section
        self._waiting: set[asyncio.Task[None]] = set()  # gateways whose models are not ready
        self._failure: BaseException | None = None

    async def start(self) -> None:
        Interrupts(self.stop, self._ending).handle()
        try:
            await super().start()
        except OSError as error:
            raise CliError(error.strerror or str(error)) from error
        except (ModelLoadError, ValueError) as error:
            raise CliError(str(error)) from error
        try:
            await self._open_gateways()
        except BaseException as error:
            await self.shutdown()
            raise _as_cli_error(error) from error
        beside = [self._lines[place] for place, _ in services(self.config) if place in self._lines]
        for line in (self._announcement(), *beside):
            announce(line)

    async def run(self) -> None:
        await super().run()
        if self._failure is not None:
            raise _as_cli_error(self._failure) from self._failure

    async def _on_listening(self) -> None:
        logger.debug("%s", self._announcement())  # which is printed once the models are there, or have had their time
        self._lines.clear()
        for place, section in services(self.config):
            if not isinstance(section, GatewayConfig):
                self._lines[place] = await self._open(place, section)

    async def _open_gateways(self) -> None:
        """Opens the gateways whose models are ready; the others follow when theirs are."""
        served = targets(self.config)
        for place, section in services(self.config):
            if not isinstance(section, GatewayConfig):
                continue
            if section.model not in served or self.is_ready(section.model):
                self._lines[place] = await self._open(place, section)
            else:
                _try_address(place, section)
                logger.info("%s: waits for model %s", format_path(place), section.model)
                task = asyncio.get_running_loop().create_task(self._open_later(place, section))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)

    async def _open_later(self, place: tuple[str, ...], section: GatewayConfig) -> None:
        try:
            await self.model_ready(section.model)
            announce(await self._open(place, section))
        except (CliError, OSError, ValueError) as error:  # as it would at the start, it ends the server
            self._failure = error
            self.stop()

    async def shutdown(self) -> None:
        for task in list(self._waiting):
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        await self.drain()  # gateways' robots get what they wait for, and /readyz tells that no more should come
        await self._beside.aclose()
        await super().shutdown()
        await self._after.aclose()

    async def _open(self, place: tuple[str, ...], section: ServiceConfig) -> str:
        """Starts one of what runs beside it; returns the line about it."""
        try:
            kind = service_class(place)
        except ModuleNotFoundError as error:
            raise missing(format_path(place), error, section.extra) from error
        except ExtensionError as error:
            raise CliError(str(error)) from error
        stack = self._after if kind.outlives_server else self._beside
        try:
            service = await stack.enter_async_context(kind(self, section))
        except NoRoom as error:  # the robots of the others are served
            logger.error("%s", error.strerror)
            return f"{section.address().purpose}: not open, as the log says"
        return service.announcement()

    def _ending(self) -> str:
        if not self.running:
            return "ending"
        return draining(self.config.server.drain_timeout_s)

    def _announcement(self) -> str:
        models = ", ".join(sorted(targets(self.config)))
        return f"listening on {', '.join(self.addresses)}, strategy {self.config.scheduling.strategy}, models: {models}"


def _try_address(place: tuple[str, ...], section: GatewayConfig) -> None:
    """Raises OSError where a gateway, which opens later, could not listen even now."""
    bind = section.address().bind
    if bind is None or not bind[1]:
        return
    host, port = bind
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("" if host == "*" else host, port))
        except OSError as error:
            where = f"{format_path(place)}: cannot listen on {host}:{port}: {error.strerror}"
            raise OSError(error.errno, where) from error


def _as_cli_error(error: BaseException) -> BaseException:
    """Returns what keeps a server from starting as an error of the command."""
    if isinstance(error, OSError):
        return CliError(error.strerror or str(error))
    return CliError(str(error)) if isinstance(error, ValueError) else error


def _several(loaded: Loaded, path: Path | None, count: int) -> ServerGroup:
    wanted = _wanted(loaded, path)
    names = {model_id: ray_name(target) for model_id, target in wanted.items()}
    here = sorted(model_id for model_id, name in names.items() if name is None)
    if here:
        raise CliError(
            f"--servers: servers share models on Ray Serve, and {here[0]} is in the server's own process "
            f"({wanted[here[0]]}): make it ray:APPLICATION, or start one server"
        )
    alone = [format_path(place) for place, section in services(loaded.config) if not section.on_every_server]
    if alone:
        raise CliError(f"--servers: clients of {alone[0]} know one server; start one with it beside these")
    try:
        from inferential.cluster import ServerGroup
    except ModuleNotFoundError as error:
        raise CliError(f"{error.name} is not installed: pip install 'inferential[server]'") from error
    try:
        return ServerGroup(loaded.config, {model_id: name for model_id, name in names.items() if name}, count)
    except ValueError as error:
        raise CliError(str(error)) from error


async def _run_servers(servers: ServerGroup, watcher: ConfigWatcher, drain_timeout_s: float) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    Interrupts(stop.set, lambda: draining(drain_timeout_s)).handle()
    async with _begun(servers) as addresses:
        announce(f"{len(addresses)} servers listening on {','.join(addresses)}")
        if servers.pages:
            announce(f"pages on {', '.join(servers.pages)}")
        changes: set[asyncio.Task[None]] = set()

        def take_on(new: InferentialConfig) -> None:
            changes.add(task := loop.create_task(servers.reconfigure(new)))
            task.add_done_callback(changes.discard)

        watcher.on_reload(take_on)
        async with _watched(watcher):
            await stop.wait()


@contextlib.asynccontextmanager
async def _begun(servers: ServerGroup) -> AsyncIterator[list[str]]:
    """Starts the servers, and turns what keeps them from it into an error of the command."""
    try:
        addresses = await servers.__aenter__()
    except (OSError, ValueError) as error:
        raise CliError(str(error)) from error
    except Exception as error:  # of an actor: Ray puts its traceback around it
        cause = getattr(error, "cause", None)
        raise CliError(str(error if cause is None else cause)) from error
    try:
        yield addresses
    finally:
        await servers.__aexit__()


def _wanted(loaded: Loaded, path: Path | None) -> dict[str, str]:
    wanted = targets(loaded.config)
    if not wanted:
        place = f" in {path}" if path is not None else " in a configuration file"
        raise CliError(
            f"no models to serve: give one with --model ID=module:object, or as models.known.ID.target{place}"
        )
    for warning in unserved(loaded.config):
        logger.warning("%s", warning)
    return wanted


def _build(loaded: Loaded, path: Path | None) -> _AnnouncedServer:
    wanted = _wanted(loaded, path)
    found = [*preflight(loaded), *missing_packages(loaded)]
    if strategy_problem(loaded) is not None:
        _import_threaded(loaded.config)  # their modules may register it
    if (problem := strategy_problem(loaded)) is not None:
        found.append(problem)
    if found:
        raise CliError("\n".join(map(str, found)))
    dispatcher = _dispatcher(wanted, loaded.config)
    try:
        return _AnnouncedServer(loaded.config, dispatcher)
    except (TypeError, ValueError) as error:
        raise CliError(str(error)) from error


def _import_threaded(config: InferentialConfig) -> None:
    """Imports the modules of the models that run in this process."""
    for model in config.models.known.values():
        if model.target is None or model.run == "process":
            continue
        if scheme_of(model.target) is None and split_target(model.target) is None:
            with contextlib.suppress(TargetError):  # the model says so when it is loaded
                find_target(model.target)


def _dispatcher(wanted: Mapping[str, str], config: InferentialConfig) -> Dispatcher:
    if all(ray_name(target) is None for target in wanted.values()):
        return LocalDispatcher({})
    try:
        from inferential.dispatch.ray.dispatcher import RayDispatcher
    except ModuleNotFoundError as error:
        raise CliError(f"{error.name} is not installed: pip install 'inferential[server]'") from error
    return RayDispatcher(config.ray, {})


async def _run(server: _AnnouncedServer, watcher: ConfigWatcher) -> None:
    async with _watched(watcher):
        await server.run()


@contextlib.asynccontextmanager
async def _watched(watcher: ConfigWatcher) -> AsyncIterator[None]:
    watching = asyncio.create_task(_watch(watcher))
    await asyncio.sleep(0)  # SIGHUP is handled from here on, before the line that the server listens is printed
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def _watch(watcher: ConfigWatcher) -> None:
    try:
        await watcher.watch()
    except Exception:
        logger.exception("the configuration is no longer watched")
