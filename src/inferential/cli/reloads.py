"""What a running server does with a changed configuration, and what it says of it."""

from __future__ import annotations

import logging
from typing import Any

from inferential.cli.errors import CliError
from inferential.config.changes import diff
from inferential.config.fields import format_value
from inferential.config.schema import InferentialConfig
from inferential.server import Server

logger: logging.Logger = logging.getLogger("inferential.serve")


class Reloads:
    """Takes changed configurations on, and says what each changes; what takes a restart is said once.

    Args:
        server: what is reconfigured.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._began = server.config
        self._said: dict[str, Any] = {}

    def take_on(self, new: InferentialConfig) -> None:
        """Applies a configuration.

        Raises:
            ValueError: it cannot be taken on; nothing is changed then.
        """
        changes = diff(self._server.config, new, self._began)
        try:
            self._server.reconfigure(new)
        except CliError as error:
            raise ValueError(str(error)) from error
        left = {change.path: change.new for change in changes if not change.live}
        for change in changes:
            if change.live:
                logger.info("%s", change)
            elif change.path not in self._said or self._said[change.path] != change.new:
                logger.warning("%s; until then it stays %s", change, format_value(change.old))
        self._said = left
