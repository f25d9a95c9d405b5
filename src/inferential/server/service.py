"""What runs beside a server on its event loop: gateways, the live page, telemetry.

A service declares the section that turns it on; `config.extensions` finds it by the name of that section.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from inferential.config.exposure import NEITHER
from inferential.config.extensions import GATEWAYS, SERVICES, load_extension
from inferential.config.services import ServiceConfig
from inferential.errors import InferentialError

if TYPE_CHECKING:
    from inferential.server.server import Server


class NoRoom(InferentialError, OSError):
    """The system's limits leave a service too little to be started; the server runs without it."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ENOMEM, reason)


class Service(ABC):
    """Runs beside a server; an async context manager that starts and stops it.

    Args:
        server: a running server.
        config: the service's own section.

    Attributes:
        Config: the section that turns it on.
        outlives_server: whether it stops after the server's last request, rather than before.
    """

    Config: ClassVar[type[ServiceConfig]]
    outlives_server: ClassVar[bool] = False

    def __init__(self, server: Server, config: Any) -> None:
        self._server = server
        self._config = config

    @property
    @abstractmethod
    def address(self) -> str:
        """The address it listens on, with the real port, or that it connects to."""

    @abstractmethod
    def announcement(self) -> str:
        """Returns the line that `inferential serve` prints of it: what it is, and its address."""

    @abstractmethod
    async def start(self) -> None:
        """Starts it.

        Raises:
            OSError: the address cannot be bound.
            NoRoom: the system's limits leave too little for it.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Ends all connections; does nothing if it is stopped already."""

    async def __aenter__(self) -> Self:
        """Starts it.

        Raises:
            OSError: as `start`.
            ValueError: `security.mode` is required, and it would let in any client.
        """
        if self._server.config.security.mode == "required" and (remedy := self._config.protection()):
            raise ValueError(f"{self._config.address().purpose}: {NEITHER}: {remedy}")
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()


def service_class(place: Sequence[str]) -> type[Service]:
    """Imports and returns what a section turns on.

    Args:
        place: of the section: `("gateways", "openpi")`, `("http",)`.

    Raises:
        ModuleNotFoundError: a service of this package needs one that is not installed.
        ExtensionError: a gateway of another package cannot be imported.
    """
    group = GATEWAYS if place[0] == "gateways" else SERVICES
    return cast(type[Service], load_extension(group, place[-1]))
