"""`inferential replay`: recorded observations to another model or server, and how its answers differ.

The observations are read from recordings (`recording`), and the model runs as a server would run it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inferential import AsyncConnection, InferenceError, LocalDispatcher, Server
from inferential.cli.answer_differences import Compared
from inferential.cli.errors import CliError, missing
from inferential.cli.output import make_folder, print_json, print_line, print_rows, progress_bar, writing_to
from inferential.cli.recordings import read_recordings
from inferential.cli.robot_keys import SecretKey, ServerKey
from inferential.cli.targets import load_models
from inferential.config.schema import InferentialConfig
from inferential.errors import system_reason
from inferential.transport.listening import LARGEST_PORT

if TYPE_CHECKING:
    from inferential.recording.reading import Recorded

EXAMPLES = (
    "inferential replay recordings/2026-11-29T12-00-00-001.mcap --model policies:NewPolicy",
    "inferential replay run.mcap --model policies:NewPolicy --max-difference 0.01 --out difference",
    "inferential replay run.mcap --server localhost:5555 --speed 1",
)
_TIMEOUT_MS = 60_000.0
_CONNECT_S = 10.0
_DIMENSIONS = 32  # in the table


def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings (MCAP), or folders of them.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODULE:OBJECT", help="Ask this model, and compare its answers.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ask this server, each robot as it did, and compare.")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0, help="With --server: how many times as fast; 0: without pauses.")
    ] = 1.0,
    only: Annotated[
        str | None, typer.Option("--only", metavar="MODEL", help="Observations of this model alone.")
    ] = None,
    max_difference: Annotated[
        float | None, typer.Option(min=0, help="Exit code 1 where any value differs by more.")
    ] = None,
    server_key: ServerKey = None,
    secret_key: SecretKey = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where the figures and a picture of them are saved.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> int:
    """Ask anew what robots asked, and compare the answers.

    Each recorded observation is sent as it was; the answers are compared with
    those recorded, dimension by dimension: a regression test for policies.

    Exit code 1: an answer differs by more than --max-difference, has other
    arrays, or did not come.
    """
    if (model is None) == (server is None):
        raise CliError("give one of --model MODULE:OBJECT and --server ADDRESS: what is to be asked")
    recorded = _read(files, only)
    asked = sorted({one.model_id for one in recorded})
    if model is not None and len(asked) > 1:
        raise CliError(
            f"what was asked of {len(asked)} models is recorded ({', '.join(asked)}): choose by --only MODEL"
        )
    if out is not None:
        make_folder(out)
    compared = Compared(recorded[0].received_ns)
    with progress_bar("asking", len(recorded), shown=not as_json) as advance:
        asking = _Asking(recorded, compared, advance)
        if model is not None:
            # Before there is an event loop, for which the first Ctrl-C would wait until the model is imported and made.
            dispatcher = LocalDispatcher(load_models({"replayed": model}))
            asyncio.run(asking.ask_model(dispatcher))
        else:
            assert server is not None
            asyncio.run(asking.ask_server(server, speed, server_key, secret_key))
    is_good = (
        not compared.failed and not compared.unlike and (max_difference is None or compared.worst <= max_difference)
    )
    summary = {**compared.as_dict(), "passed": is_good}
    saved = [] if out is None else _save(summary, compared, max_difference, out)
    if as_json:
        print_json(summary)
    else:
        _show(compared, max_difference)
        for path in saved:
            print_line(f"saved {path}")
    return 0 if is_good else 1


def _read(files: list[Path], only: str | None) -> list[Recorded]:
    # Images stay encoded until they are asked: decoded, an hour of them would fill the memory.
    everything = list(read_recordings(files, "inferential replay", "encoded"))
    found = [
        one
        for one in everything
        if one.observation is not None and one.answer is not None and only in (None, one.model_id)
    ]
    if not found:
        models = ", ".join(sorted({one.model_id for one in everything})) or "none"
        raise CliError(f"no observation with an answer{f' of model {only!r}' if only else ''}; models: {models}")
    return sorted(found, key=lambda one: one.received_ns)


@dataclass(slots=True)
class _Asking:
    """Asks what was recorded, and compares.

    Attributes:
        recorded: in order of time.
        compared: where answers go.
        advance: is called for each.
    """

    recorded: list[Recorded]
    compared: Compared
    advance: Callable[[], None]

    async def ask_model(self, dispatcher: LocalDispatcher) -> None:
        """Asks as a gateway does, within the process: one observation after another, each session a client."""
        # Every observation is asked, however many fail before it.
        models = {"known": {"replayed": {"breaker": {"failures": None}}}}
        config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}, "models": models})
        try:
            async with (
                Server("ipc://*", config=config, dispatcher=dispatcher) as running,
                AsyncExitStack() as open_ones,
            ):
                robots: dict[tuple[str, str], Any] = {}  # a session each, as policies with memory keep state of it
                for one in self.recorded:
                    session = one.client_id, one.session
                    connection = robots.get(session)
                    if connection is None:
                        connection = robots[session] = await open_ones.enter_async_context(
                            running.connect(f"{one.client_id} {one.session}", one.client_type)
                        )
                    handle = connection.model("replayed", queue="all", late="serve")
                    if (observation := self._observation(one)) is not None:
                        await self._compare(one, connection.infer(handle, observation, _TIMEOUT_MS))
        except ValueError as error:
            raise CliError(str(error)) from error

    async def ask_server(self, address: str, speed: float, server_key: str | None, secret_key: str | None) -> None:
        """Asks as the fleet did: each robot by connections of its own, one for each session, at its times."""
        sessions: dict[str, dict[str, list[Recorded]]] = {}
        for one in self.recorded:
            sessions.setdefault(one.client_id, {}).setdefault(one.session, []).append(one)
        if secret_key and len(sessions) > 1:
            robots = ", ".join(list(sessions)[:5])
            raise CliError(f"--secret-key is one robot's, and the recording has {len(sessions)}: {robots}")
        await _check_listens(address)
        began, first_ns = time.monotonic(), self.recorded[0].received_ns

        async def wait_for(one: Recorded) -> None:
            if speed:
                await asyncio.sleep(began + (one.received_ns - first_ns) / 1e9 / speed - time.monotonic())

        async def drive(client_id: str) -> None:
            name = "" if secret_key else client_id  # else that of the key
            for session in sessions[client_id].values():
                await wait_for(session[0])
                async with (
                    AsyncConnection(
                        address, name, "replay", server_key=server_key, secret_key=secret_key
                    ) as connection,
                    asyncio.TaskGroup() as answers,
                ):
                    for one in session:
                        await wait_for(one)
                        if (observation := self._observation(one)) is None:
                            continue
                        handle = connection.model(one.model_id, queue="all", late="serve")
                        comparing = self._compare(one, handle.infer(_TIMEOUT_MS, observation=observation))
                        if speed:  # the next is sent at its time, whether or not this one is answered by then
                            answers.create_task(comparing)
                        else:
                            await comparing

        try:
            async with asyncio.TaskGroup() as asking:
                for client_id in sessions:
                    asking.create_task(drive(client_id))
        except ExceptionGroup as error:  # of each robot the same
            first = _first_of(error)
            if isinstance(first, ImportError | TypeError | ValueError):
                raise CliError(str(first)) from first
            raise first from None

    def _observation(self, one: Recorded) -> dict[str, Any] | None:
        """Returns an observation as the model saw it; None, and a failure, where that is not known."""
        try:
            return one.seen()
        except ValueError as error:
            self.compared.fail(f"the observation cannot be read: {error}")
            self.advance()
            return None

    async def _compare(self, one: Recorded, answering: Any) -> None:
        try:
            answer = await answering
        except InferenceError as error:
            self.compared.fail(f"{type(error).__name__}: {error.reason}")
        else:
            if answer is None:
                self.compared.fail("no answer in time")
            else:
                self.compared.add(one, answer)
        self.advance()


def _first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


async def _check_listens(address: str) -> None:
    """Sees that something listens at an address, rather than wait a minute for each answer; of TCP alone."""
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if "://" in host or not colon or not port.isdecimal() or int(port) > LARGEST_PORT:
        return  # what connects says what is wrong
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), _CONNECT_S)
    except (OSError, TimeoutError) as error:
        why = f"no connection within {_CONNECT_S:g} s" if isinstance(error, TimeoutError) else system_reason(error)
        raise CliError(f"--server: nothing listens at {address}: {why}") from error
    writer.close()


def _save(summary: dict[str, Any], compared: Compared, allowed: float | None, out: Path) -> list[Path]:
    try:
        from inferential.cli.replay_picture import save_differences
    except ModuleNotFoundError as error:
        raise missing("--out", error, "demo") from error
    saved = [out / "replay.json", out / "differences.png", out / "differences.svg"]
    with writing_to(out):
        saved[0].write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        save_differences(compared, saved[1:], allowed=allowed)
    return saved


def _show(compared: Compared, limit: float | None) -> None:
    found = list(compared.rows())
    with_model = len({row.model for row in found}) > 1
    rows = [
        (
            f"{row.model} {row.key}" if with_model else row.key,
            str(row.dimension),
            f"{row.mean:.6g}",
            f"{row.largest:.6g}",
        )
        for row in found
    ]
    print_rows(("array", "dimension", "mean difference", "largest"), rows[:_DIMENSIONS])
    if len(rows) > _DIMENSIONS:
        print_line(f"and {len(rows) - _DIMENSIONS} more dimensions")
    for what, count in {**compared.unlike, **compared.failed}.items():
        print_line(f"{count} x {what}", "red")
    bound = "" if limit is None else f", {limit:g} allowed"
    print_line(f"{compared.compared} answers compared; largest difference {compared.worst:.6g}{bound}")
