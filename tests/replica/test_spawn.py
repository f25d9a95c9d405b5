"""Starting a worker where the system has little left."""

from __future__ import annotations

import pytest

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
