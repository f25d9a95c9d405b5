"""The lock of a connection, which its own thread cannot wait for."""

from __future__ import annotations

from _thread import RLock


class ConnectionLock(RLock):  # type: ignore[misc]  # final in typeshed, not in CPython
    """A lock that raises where the thread that holds it would take it again, and wait for itself for ever.

    So it is where a signal's handler, or `__del__` of an object that is collected just then, interrupts a call of the
    connection by another one.
    """

    def __enter__(self) -> bool:  # type: ignore[override]  # of the arguments that `acquire` has
        """Waits for the lock.

        Raises:
            RuntimeError: this thread holds it.
        """
        if self.is_held_here():
            raise RuntimeError(
                "a connection was called by what interrupts another call of it in the same thread, such as the handler"
                " of a signal or __del__; set a flag there, and call the connection in the control loop"
            )
        return self.acquire()

    def is_held_here(self) -> bool:
        """Returns whether this thread holds it."""
        return bool(self._is_owned())  # type: ignore[attr-defined]  # threading.Condition uses it too
