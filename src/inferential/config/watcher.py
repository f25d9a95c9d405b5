"""Reloading the configuration while a server runs: when its file changes, and on SIGHUP.

It applies nothing: callbacks do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from watchfiles import awatch

from inferential.config.files import parse_content
from inferential.config.loading import OVERRIDES, combine
from inferential.config.problems import ConfigError
from inferential.config.schema import InferentialConfig

logger: logging.Logger = logging.getLogger("inferential.config")

ReloadCallback = Callable[[InferentialConfig], object]
MAX_BYTES = 16 * 1024 * 1024
"""Of a file that is read while robots are served, which wait meanwhile; tens of thousands of clients have room."""
Directories = dict[Path, tuple[int, int] | None]
_Callback = TypeVar("_Callback", bound=ReloadCallback)


class ConfigWatcher:
    """Calls back with each new configuration.

    A configuration that cannot be used is logged, with the reasons, and nothing is called: the old one stays. Neither
    is it for a file that is empty or gone, which is what a file looks like that is just being written. Replace a file
    in one go (write another, then rename it), so that no half of it is ever read.

    Make it before you load the file yourself: what changes after this is called back, however late `watch` begins.

    Args:
        config_path: the file; None: only SIGHUP reloads, from `env` and `overrides`.
        env: as for `load_config`; the environment as it is now where it is not given.
        overrides: as for `load_config`.
        overrides_name: what messages call the source of `overrides`.
    """

    def __init__(
        self,
        config_path: str | Path | None = None,
        *,
        env: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        overrides_name: str = OVERRIDES,
    ) -> None:
        self._path = None if config_path is None else Path(config_path)
        self._env = dict(os.environ if env is None else env)
        self._overrides = overrides
        self._overrides_name = overrides_name
        self._callbacks: list[ReloadCallback] = []
        self._why_none = ""
        self._seen = self._content()
        self._lock = asyncio.Lock()

    def on_reload(self, callback: _Callback) -> _Callback:
        """Has `callback(config)` called with every new configuration, on the event loop; a decorator.

        One that raises is logged, and the others are called all the same: ValueError says why it is not taken on.
        """
        self._callbacks.append(callback)
        return callback

    async def watch(self) -> None:
        """Watches until it is cancelled.

        SIGHUP is handled meanwhile where this is the main thread and the platform has it; the handler that was there
        before is put back.
        """
        hangup = asyncio.Event()
        with _on_hangup(hangup.set):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._reload_on(hangup))
                if self._path is not None:
                    tasks.create_task(self._watch_file(self._path))

    async def _reload_on(self, hangup: asyncio.Event) -> None:
        while await hangup.wait():
            hangup.clear()
            await self._reload("SIGHUP")

    async def _watch_file(self, path: Path) -> None:
        async def reload_if_changed() -> None:
            if self._content() != self._seen:
                await self._reload(f"{path} changed")

        try:
            await _follow(path, reload_if_changed)
        except (OSError, RuntimeError) as error:
            logger.error("cannot watch %s, only SIGHUP reloads it: %s", path, error)

    async def _reload(self, why: str) -> None:
        async with self._lock:
            content = self._seen = self._content()
            if self._path is not None and content is None:
                logger.warning("%s: it %s, the old configuration stays", why, self._why_none)
                return
            try:
                # In a thread: a fleet of thousands of known clients takes a second to read and check.
                config = await asyncio.to_thread(self._load, content)
            except ConfigError as error:
                logger.error("%s: the configuration cannot be used, the old one stays:\n%s", why, error)
                return
            except Exception:  # of what another package checks: later changes are read all the same
                logger.exception("%s: the configuration cannot be read, the old one stays", why)
                return
            failed = False
            for callback in self._callbacks:
                try:
                    callback(config)
                except ValueError as error:
                    failed = True
                    logger.error("%s: the new configuration is not taken on, the old one stays: %s", why, error)
                except Exception:
                    failed = True
                    logger.exception("%s: %r failed on the new configuration", why, callback)
            if not failed:
                logger.info("%s: configuration reloaded", why)

    def _load(self, content: bytes | None) -> InferentialConfig:
        file = None if self._path is None or content is None else parse_content(self._path, content)
        return combine(file, env=self._env, overrides=self._overrides, overrides_name=self._overrides_name).config

    def _content(self) -> bytes | None:
        """Returns the content of the file; None if there is no file or only blanks.

        A pipe is none: opening it would wait for who writes to it, and it can be read only once.
        """
        if self._path is None:
            return None
        self._why_none = "is empty or gone"
        try:
            status = self._path.stat()
            if not stat.S_ISREG(status.st_mode):
                return None
            if status.st_size > MAX_BYTES:
                self._why_none = f"has {status.st_size} bytes, at most {MAX_BYTES} are read"
                return None
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:  # as where no descriptor is left
            self._why_none = f"cannot be read ({error.strerror})"
            return None
        return content if content.strip() else None


def _directories(path: Path) -> Directories:
    """Returns the directories to watch, with what shows whether one was replaced by another of its name.

    Directories, because a watch on a file ends when the file is replaced, as editors do; and also that of the file
    which a symbolic link leads to. Kubernetes swaps a link beside the file, which is a change in its directory.
    """
    found: Directories = {}
    for directory in (path.absolute().parent, path.resolve().parent):
        try:
            status = directory.stat()
            found[directory] = (status.st_dev, status.st_ino)
        except OSError:
            found[directory] = None
    return found


async def _follow(path: Path, look: Callable[[], Awaitable[None]]) -> None:
    """Awaits `look()` when watching begins and whenever something changes in a file's directories, until cancelled.

    Raises:
        OSError, RuntimeError: there is no such directory, or the system has no more watches.
    """
    while True:
        directories = _directories(path)
        async with contextlib.aclosing(awatch(*directories, watch_filter=None, recursive=False)) as changes:
            upcoming = asyncio.ensure_future(anext(changes))
            try:
                await asyncio.sleep(0)  # the watch is set up before the generator first waits
                await look()
                while directories == _directories(path):  # else the file is to be looked for elsewhere
                    await upcoming
                    upcoming = asyncio.ensure_future(anext(changes))
                    await look()
            finally:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)


@contextlib.contextmanager
def _on_hangup(callback: Callable[[], None]) -> Iterator[None]:
    number = getattr(signal, "SIGHUP", None)
    loop = asyncio.get_running_loop()
    try:
        if number is None:
            raise NotImplementedError
        before = signal.getsignal(number)
        loop.add_signal_handler(number, callback)
    except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(number)
        signal.signal(number, before)


async def watch_folder(folder: str | Path, on_change: Callable[[], object]) -> None:
    """Calls back when watching begins and whenever something in a folder changes, until it is cancelled."""

    async def call() -> None:
        on_change()

    try:
        await _follow(Path(folder) / "any", call)
    except (OSError, RuntimeError) as error:
        logger.error("cannot watch %s, only SIGHUP reads it again: %s", folder, error)
