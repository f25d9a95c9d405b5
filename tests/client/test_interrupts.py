"""What interrupts a call of a connection in its own thread: a signal's handler may close it, and cannot hang it."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, Connection
from inferential.client.transport import SingleServer

pytestmark = pytest.mark.usefixtures("patient")
WAIT_MS = 60_000
Open = Callable[..., Connection]
Handle = Callable[[Callable[[], Any]], None]


@pytest.fixture
def handler() -> Iterator[Handle]:
    """Has a function called by the next signals."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda function: signal.signal(signal.SIGUSR1, lambda *_: function()) and None
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal comes while an observation is sent."""
    send = SingleServer.send

    def sending(self: SingleServer, *arguments: Any) -> bool:
        signal.raise_signal(signal.SIGUSR1)
        return send(self, *arguments)

    monkeypatch.setattr(SingleServer, "send", sending)


def test_a_handler_may_close_the_connection_in_which_its_thread_waits(open_connection: Open, handler: Handle) -> None:
    connection = open_connection()
    model = connection.model("m")
    handler(connection.close)

    def interrupt() -> None:
        while not connection.waiting:
            pass
        signal.raise_signal(signal.SIGUSR1)

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(ConnectionError, match="is closed"):
        model.get_result(WAIT_MS)
    other.join()
    connection.close()
    with pytest.raises(ConnectionError, match="is closed"):
        model.get_result(0)


@pytest.mark.usefixtures("interrupted")
def test_a_handler_may_close_the_connection_that_sends(open_connection: Open, handler: Handle) -> None:
    connection = open_connection()
    model = connection.model("m")
    handler(connection.close)
    model.observe(n=np.zeros(1))
    with pytest.raises(ConnectionError, match="is closed"):
        model.observe(n=np.zeros(1))
    connection.close()


@pytest.mark.usefixtures("interrupted")
def test_a_handler_that_asks_while_its_thread_asks_gets_an_error_in_place_of_waiting_for_itself(
    open_connection: Open, handler: Handle
) -> None:
    model = open_connection().model("m")
    handler(lambda: model.observe(n=np.zeros(1)))
    with pytest.raises(RuntimeError, match="interrupts another call of it in the same thread"):
        model.observe(n=np.zeros(1))
    handler(lambda: None)
    assert model.observe(n=np.zeros(1)) > 0


async def test_a_connection_is_neither_copied_nor_pickled() -> None:
    with Connection("localhost:1") as connection:
        async with AsyncConnection("localhost:1") as other:
            for one in (connection, other, connection.model("m"), other.model("m")):
                for way in (copy.deepcopy, pickle.dumps):
                    with pytest.raises(TypeError, match=r"cannot be copied or pickled.*open one in each process"):
                        way(one)
            with pytest.raises(TypeError, match="cannot be copied"):
                copy.copy(connection)
