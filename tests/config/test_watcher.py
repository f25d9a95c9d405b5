"""Reloading, on real changes of real files and on the real SIGHUP."""

# ruff: noqa: ASYNC240 (files are written here that something else shall notice)

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from inferential.config import ConfigWatcher, InferentialConfig
from inferential.config.watcher import MAX_BYTES

WAIT_S = 60.0
Watching = Callable[..., AbstractAsyncContextManager["asyncio.Queue[InferentialConfig]"]]


def text(strategy: str) -> str:
    return f"scheduling: {{strategy: {strategy}}}\n"


async def next_strategy(reloads: asyncio.Queue[InferentialConfig]) -> str:
    return (await asyncio.wait_for(reloads.get(), WAIT_S)).scheduling.strategy


@contextlib.asynccontextmanager
async def watched(watcher: ConfigWatcher) -> AsyncIterator[asyncio.Queue[InferentialConfig]]:
    """The configurations that a running watcher calls back with."""
    reloads: asyncio.Queue[InferentialConfig] = asyncio.Queue()
    watcher.on_reload(reloads.put_nowait)
    task = asyncio.create_task(watcher.watch())
    await asyncio.sleep(0)
    try:
        yield reloads
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def survive_hangups() -> Iterator[Any]:
    """A SIGHUP without a handler must not end the tests."""

    def ignore(number: int, frame: Any) -> None:
        pass

    before = signal.signal(signal.SIGHUP, ignore)
    yield ignore
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def logged() -> Iterator[asyncio.Queue[str]]:
    """What the package logs, as it is logged."""
    lines: asyncio.Queue[str] = asyncio.Queue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.put_nowait(record.getMessage())

    logger, handler = logging.getLogger("inferential.config"), Handler()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "fleet.yaml"
    found.write_text(text("a"))
    return found


async def test_a_file_that_is_written_to_is_reloaded(path: Path) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        path.write_text(text("b"))
        assert await next_strategy(reloads) == "b"
        path.write_text(text("c"))
        assert await next_strategy(reloads) == "c"


async def test_a_file_that_is_replaced_is_reloaded_each_time(path: Path) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        for strategy in "bcd":
            other = path.with_name("fleet.yaml.new")
            other.write_text(text(strategy))
            other.replace(path)
            assert await next_strategy(reloads) == strategy


async def test_a_change_before_watching_began_is_not_lost(path: Path) -> None:
    watcher = ConfigWatcher(path, env={})
    path.write_text(text("b"))
    async with watched(watcher) as reloads:
        assert await next_strategy(reloads) == "b"


async def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(path: Path, logged: asyncio.Queue[str]) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        path.unlink()
        os.mkfifo(path)
        async with asyncio.timeout(60):
            assert "the old configuration stays" in await logged.get()
        path.unlink()
        path.write_text(text("b"))
        assert await next_strategy(reloads) == "b"


async def test_swapped_links_beside_the_file_are_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap: fleet.yaml -> ..data/fleet.yaml, ..data -> a directory of its own."""
    mounted = tmp_path / "mounted"
    for name in ("..1", "..2", "..3"):
        (mounted / name).mkdir(parents=True)
        (mounted / name / "fleet.yaml").write_text(text(name))
    (mounted / "..data").symlink_to("..1")
    path = mounted / "fleet.yaml"
    path.symlink_to("..data/fleet.yaml")
    async with watched(ConfigWatcher(path, env={})) as reloads:
        for name, old in (("..2", "..1"), ("..3", "..2")):
            (mounted / "..tmp").symlink_to(name)
            (mounted / "..tmp").replace(mounted / "..data")
            shutil.rmtree(mounted / old)
            assert await next_strategy(reloads) == name


async def test_the_file_a_link_leads_to_is_watched_too(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real.yaml"
    real.write_text(text("a"))
    link = tmp_path / "here" / "fleet.yaml"
    link.symlink_to(real)
    async with watched(ConfigWatcher(link, env={})) as reloads:
        real.write_text(text("b"))
        assert await next_strategy(reloads) == "b"


async def test_other_files_in_the_directory_and_equal_content_cause_no_reload(path: Path) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        path.with_name("other.yaml").write_text(text("x"))
        path.touch()
        path.write_text(text("a"))
        path.write_text(text("b"))
        assert await next_strategy(reloads) == "b"
        assert reloads.empty()


async def test_a_bad_file_keeps_the_old_configuration_and_says_why(path: Path, logged: asyncio.Queue[str]) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        path.write_text("scheduling:\n  stratgy: b\n")
        message = await asyncio.wait_for(logged.get(), WAIT_S)
        assert message == (
            f"{path} changed: the configuration cannot be used, the old one stays:\n"
            f"scheduling.stratgy: unknown key; did you mean scheduling.strategy? ({path}:2:3)"
        )
        path.write_text(text("b"))
        assert await next_strategy(reloads) == "b"
        assert logged.empty()


async def test_a_file_that_is_empty_or_gone_keeps_the_old_configuration(path: Path, logged: asyncio.Queue[str]) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        path.unlink()
        assert "empty or gone" in await asyncio.wait_for(logged.get(), WAIT_S)
        path.write_text(text("b"))
        assert await next_strategy(reloads) == "b"
        path.write_text("\n")
        assert "empty or gone" in await asyncio.wait_for(logged.get(), WAIT_S)
        assert reloads.empty()


async def test_a_file_that_cannot_be_read_keeps_the_old_configuration(
    path: Path, logged: asyncio.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(self: Path) -> bytes:
        raise OSError(24, "Too many open files")

    async with watched(ConfigWatcher(path, env={})) as reloads:
        with monkeypatch.context() as exhausted:
            exhausted.setattr(Path, "read_bytes", none_left)
            path.write_text(text("b"))
            said = await asyncio.wait_for(logged.get(), WAIT_S)
        assert "it cannot be read (Too many open files), the old configuration stays" in said
        assert reloads.empty()


async def test_a_file_that_is_no_configuration_by_its_size_is_not_read(path: Path, logged: asyncio.Queue[str]) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        os.truncate(path, 1 << 40)
        said = await asyncio.wait_for(logged.get(), WAIT_S)
        assert f"it has {1 << 40} bytes, at most {MAX_BYTES} are read, the old configuration stays" in said
        path.write_text(text("b"))
        assert await next_strategy(reloads) == "b"


async def test_hangup_reloads_whether_or_not_the_file_changed(path: Path) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            assert await next_strategy(reloads) == "a"


async def test_hangup_alone_reloads_where_there_is_no_file() -> None:
    watcher = ConfigWatcher(env={"INFERENTIAL_SCHEDULING__STRATEGY": "x"})
    async with watched(watcher) as reloads:
        os.kill(os.getpid(), signal.SIGHUP)
        assert await next_strategy(reloads) == "x"


async def test_the_former_hangup_handler_is_put_back(path: Path, survive_hangups: Any) -> None:
    async with watched(ConfigWatcher(path, env={})):
        assert signal.getsignal(signal.SIGHUP) is not survive_hangups
    assert signal.getsignal(signal.SIGHUP) is survive_hangups


async def test_environment_and_overrides_apply_on_reload_as_they_did_at_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERENTIAL_SCHEDULING__MAX_RETRIES", "2")
    watcher = ConfigWatcher(path, overrides={"metrics": {"enabled": False}})
    monkeypatch.setenv("INFERENTIAL_SCHEDULING__MAX_RETRIES", "3")
    async with watched(watcher) as reloads:
        path.write_text("scheduling: {strategy: b, max_retries: 1}\nmetrics: {enabled: true}")
        config = await asyncio.wait_for(reloads.get(), WAIT_S)
    assert config.scheduling.strategy == "b"
    assert config.scheduling.max_retries == 2
    assert config.metrics.enabled is False


async def test_an_error_of_another_packages_section_ends_no_watching(
    path: Path, logged: asyncio.Queue[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*layers: Any, **options: Any) -> Any:
        raise RuntimeError("a gateway's own check failed")

    async with watched(ConfigWatcher(path, env={})) as reloads:
        with monkeypatch.context() as patched:
            patched.setattr("inferential.config.watcher.combine", broken)
            path.write_text(text("round_robin"))
            line = await asyncio.wait_for(logged.get(), WAIT_S)
        assert line.endswith("the configuration cannot be read, the old one stays")
        path.write_text(text("batch_optimized"))
        assert await next_strategy(reloads) == "batch_optimized"


async def test_what_is_not_taken_on_is_not_said_to_be_reloaded(
    path: Path, logged: asyncio.Queue[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inferential.config")
    watcher = ConfigWatcher(path, env={})
    refused = ["b"]

    @watcher.on_reload
    def take_on(config: InferentialConfig) -> None:
        if config.scheduling.strategy in refused:
            raise ValueError("no such strategy")

    async with watched(watcher) as reloads:
        for strategy, line in (
            ("b", f"{path} changed: the new configuration is not taken on, the old one stays: no such strategy"),
            ("c", f"{path} changed: configuration reloaded"),
        ):
            path.write_text(text(strategy))
            assert await next_strategy(reloads) == strategy
            assert await asyncio.wait_for(logged.get(), WAIT_S) == line


async def test_a_callback_that_raises_is_logged_and_stops_no_other(path: Path, logged: asyncio.Queue[str]) -> None:
    watcher = ConfigWatcher(path, env={})

    @watcher.on_reload
    def broken(config: InferentialConfig) -> None:
        raise RuntimeError("no")

    assert broken.__name__ == "broken"
    async with watched(watcher) as reloads:
        for strategy in "bc":
            path.write_text(text(strategy))
            assert await next_strategy(reloads) == strategy
            assert "broken" in await asyncio.wait_for(logged.get(), WAIT_S)


async def test_a_directory_that_is_gone_is_logged_and_hangup_still_reloads(
    path: Path, logged: asyncio.Queue[str]
) -> None:
    aside = path.parent.with_name(path.parent.name + "-aside")
    async with watched(ConfigWatcher(path, env={})) as reloads:
        path.parent.rename(aside)
        (aside / "fleet.yaml").write_text(text("b"))
        while "only SIGHUP reloads it" not in await asyncio.wait_for(logged.get(), WAIT_S):
            pass
        aside.rename(path.parent)
        os.kill(os.getpid(), signal.SIGHUP)
        assert await next_strategy(reloads) == "b"


async def test_nothing_is_left_of_a_watch_that_was_cancelled(path: Path) -> None:
    async with watched(ConfigWatcher(path, env={})) as reloads:
        path.write_text(text("b"))
        await next_strategy(reloads)
        assert len(asyncio.all_tasks()) > 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_file_is_watched_in_other_threads_too_where_there_are_no_signals(path: Path) -> None:
    strategies: list[str] = []

    async def run() -> None:
        async with watched(ConfigWatcher(path, env={})) as reloads:
            path.write_text(text("b"))
            strategies.append(await next_strategy(reloads))

    thread = threading.Thread(target=asyncio.run, args=[run()])
    thread.start()
    thread.join(2 * WAIT_S)
    assert strategies == ["b"]
