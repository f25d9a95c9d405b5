"""Starting a worker where the system has little left."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferential import LocalDispatcher, ModelProcess
from inferential.replica import spawn


async def test_where_no_memory_can_be_shared_a_worker_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the descriptors that were opened before would be left open, with each attempt some more."""

    def no_memory() -> None:
        raise MemoryError

    monkeypatch.setattr(spawn, "ServersMemory", no_memory)
    spawned = await spawn.spawn(None, {})
    try:
        assert spawned.memory is None
        assert spawned.process.poll() is None
    finally:
        spawned.discard()


@pytest.mark.parametrize("options", [{}, {"PYTHONSAFEPATH": "1"}])
async def test_a_worker_finds_the_modules_that_its_environment_names(options: dict[str, str], tmp_path: Path) -> None:
    """With PYTHONSAFEPATH the folder of a script is not where Python looks first: nothing is to be taken out."""
    (tmp_path / "named_by_path.py").write_text("def policy(observation):\n    return observation['state']\n")
    spec = ModelProcess("named_by_path:policy", env={"PYTHONPATH": str(tmp_path), **options})
    dispatcher = LocalDispatcher({"m": spec})
    await dispatcher.start()
    await dispatcher.close()


async def test_a_worker_finds_first_what_its_server_finds_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of one's own may have the name of one that is installed, or of Python's."""
    (tmp_path / "code.py").write_text("def policy(observation):\n    return observation['state']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    dispatcher = LocalDispatcher({"m": ModelProcess("code:policy")})
    await dispatcher.start()
    await dispatcher.close()
