"""Finds the ready ones among many sockets, a few at a time and each in its turn.

`selectors` returns all ready sockets of a call, which takes 1 ms for a thousand. epoll returns at most as many as are
asked for, and takes those it has returned to the end of its list (epoll(7), level-triggered), so none is left out.
"""

from __future__ import annotations

import selectors
import sys
from typing import Generic, TypeVar

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Owner = TypeVar("Owner")

if sys.platform == "linux":
    import select

    class Poller(Generic[Owner]):
        """Sockets by descriptor, each with its owner."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._owners: dict[int, Owner] = {}

        def __len__(self) -> int:
            return len(self._owners)

        def fileno(self) -> int:
            """Returns a descriptor that is readable while any socket is ready."""
            return self._epoll.fileno()

        def register(self, fd: int, events: int, owner: Owner) -> None:
            """Adds a socket; `events` are READ, WRITE, both or 0.

            Raises:
                OSError: the system has no room.
            """
            self._epoll.register(fd, _mask(events))
            self._owners[fd] = owner

        def modify(self, fd: int, events: int) -> None:
            """Changes what is looked for."""
            self._epoll.modify(fd, _mask(events))

        def unregister(self, fd: int) -> None:
            """Removes a socket, before it is closed."""
            del self._owners[fd]
            self._epoll.unregister(fd)

        def poll(self, limit: int) -> list[tuple[Owner, int]]:
            """Returns up to `limit` sockets that are ready now, and for what; one that has ended counts as READ."""
            owners = self._owners
            return [
                (
                    owners[fd],
                    (READ if events & ~select.EPOLLOUT else 0) | (WRITE if events & ~select.EPOLLIN else 0),
                )
                for fd, events in self._epoll.poll(0, limit)
            ]

        def close(self) -> None:
            """Frees the descriptor."""
            self._epoll.close()
            self._owners.clear()

    def _mask(events: int) -> int:
        return (select.EPOLLIN if events & READ else 0) | (select.EPOLLOUT if events & WRITE else 0)

else:

    class Poller(Generic[Owner]):
        """The same by `selectors`, which returns all that is ready: the rest waits here for its turn."""

        def __init__(self) -> None:
            self._selector = selectors.DefaultSelector()
            self._found: list[tuple[selectors.SelectorKey, int]] = []

        def __len__(self) -> int:
            return len(self._selector.get_map())

        def fileno(self) -> int:
            """Returns a descriptor that is readable while any socket is ready."""
            return self._selector.fileno()

        def register(self, fd: int, events: int, owner: Owner) -> None:
            """Adds a socket; `events` are READ, WRITE or both."""
            self._selector.register(fd, events, owner)

        def modify(self, fd: int, events: int) -> None:
            """Changes what is looked for; 0: nothing."""
            owner = self._selector.unregister(fd).data
            if events:
                self._selector.register(fd, events, owner)

        def unregister(self, fd: int) -> None:
            """Removes a socket, before it is closed."""
            self._selector.unregister(fd)

        def poll(self, limit: int) -> list[tuple[Owner, int]]:
            """Returns up to `limit` sockets that are ready now, and for what."""
            if not self._found:
                self._found = self._selector.select(0)
            some, self._found = self._found[:limit], self._found[limit:]
            return [(key.data, events) for key, events in some]

        def close(self) -> None:
            """Frees the descriptor."""
            self._selector.close()
