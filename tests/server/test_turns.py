"""What is done in turns of the event loop to come."""

from __future__ import annotations

import asyncio

from inferential.server.turns import Soon


async def test_what_is_asked_for_often_is_called_once_in_its_turn() -> None:
    calls: list[str] = []
    loop = asyncio.get_running_loop()
    soon = Soon(loop, lambda: calls.append("called"), turns=2)
    for _ in range(3):
        soon.schedule()
        assert soon.due
    await asyncio.sleep(0)
    assert calls == []
    soon.schedule()
    await asyncio.sleep(0)
    assert calls == ["called"]
    assert not soon.due
    soon.schedule()  # as often as it is asked for again
    for _ in range(3):
        await asyncio.sleep(0)
    assert calls == ["called", "called"]
