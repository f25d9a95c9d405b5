"""Connections after a fork: they stay the parent's, and the child gets an error.

Parent and child share the socket and the selector of a connection that was open before. Whatever the child read, the
parent would not get; what it closed properly would end the parent's connection.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class _Forkable(Protocol):
    def _after_fork(self) -> None: ...


_open: WeakSet[_Forkable] = WeakSet()


def leave_to_parent(connection: _Forkable) -> None:
    """Has a connection marked as the parent's in every child that is forked from now on."""
    _open.add(connection)


def forked(client_id: str) -> ConnectionError:
    """Returns the error of a connection that a child uses."""
    return ConnectionError(
        f"the connection of client {client_id!r} was opened before this process was forked, and belongs to the parent;"
        " open another one here"
    )


def cannot_be_copied(client_id: str) -> TypeError:
    """Returns the error of a connection that is copied or pickled, as for another process."""
    return TypeError(
        f"the connection of client {client_id!r} cannot be copied or pickled, nor can its handles;"
        " open one in each process"
    )


def _in_child() -> None:
    for connection in list(_open):
        connection._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
