"""Connections that ask for nothing give way where room is needed."""

from __future__ import annotations

import pytest

from inferential.transport import silent
from inferential.transport.silent import Silent


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(silent, "SETTLED_S", 0.0)
    return []


def test_the_oldest_that_has_not_asked_gives_way(ended: list[str]) -> None:
    connections = Silent()
    for name in ("asks", "first", "second"):
        connections.note(name, lambda name=name: ended.append(name))  # type: ignore[misc]
    connections.forget("asks")
    assert connections.end_one()
    assert ended == ["first"]
    assert connections.end_one()
    assert not connections.end_one()
    assert ended == ["first", "second"]


def test_one_that_came_just_now_gives_way_to_none(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silent, "SETTLED_S", 60.0)
    connections = Silent()
    connections.note("new", lambda: ended.append("new"))
    assert not connections.end_one()
    assert len(connections) == 1
    assert ended == []
