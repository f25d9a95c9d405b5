"""Log lines that repeat: each once a minute with a count, and not too many in all.

What clients do wrong is said where an operator sees it, and a thousand clients that do it must not fill a disk.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Hashable

PERIOD_S = 60.0
MAX_LINES = 30
"""Lines of one `Notices` in a period."""
_MAX_KEYS = 1024
_MAX_TEXT = 500


class Notices:
    """Says things at most once a period for each key.

    Args:
        logger: where they are logged.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._since: OrderedDict[Hashable, list[float]] = OrderedDict()  # by key: when it was said, and how often since
        self._period_at = -PERIOD_S
        self._lines = 0
        self._left_out = 0

    def __len__(self) -> int:
        return len(self._since)

    def say(self, key: Hashable, message: str, *args: object, level: int = logging.INFO) -> None:
        """Logs a message, unless the same key was logged within the last minute; then it is counted for the next one.

        Args:
            key: what is the same when it comes again, such as a client and what it does.
            message, args: as for `logging.Logger.log`.
            level: of the line.
        """
        if not self._logger.isEnabledFor(level):
            return
        now = time.monotonic()
        entry = self._since.get(key)
        if entry is not None and now - entry[0] < PERIOD_S:
            entry[1] += 1
            return
        if now - self._period_at >= PERIOD_S:
            self._period_at, self._lines = now, 0
        if self._lines >= MAX_LINES:
            self._left_out += 1
            return
        self._lines += 1
        text = message % args if args else message
        if len(text) > _MAX_TEXT:
            text = f"{text[:_MAX_TEXT]}... ({len(text)} characters)"
        if entry is not None and entry[1]:
            text += f" ({entry[1]:.0f} more times in the last {now - entry[0]:.0f} s)"
        if self._left_out:
            text += f" [{self._left_out} lines about others were left out]"
            self._left_out = 0
        self._since[key] = [now, 0]
        self._since.move_to_end(key)
        if len(self._since) > _MAX_KEYS:
            self._since.popitem(last=False)
        self._logger.log(level, "%s", text)


class LineQuota:
    """Says all of one kind, up to a number of lines in a period; the next one says how many were left out.

    Args:
        logger: where they are logged.
        most: lines in a period.
    """

    def __init__(self, logger: logging.Logger, most: int) -> None:
        self._logger = logger
        self._most = most
        self._period_at = -math.inf
        self._lines = 0
        self._left_out = 0

    def say(self, message: str, *args: object) -> None:
        """Logs a message at INFO, unless there were too many."""
        now = time.monotonic()
        if now - self._period_at >= PERIOD_S:
            self._period_at, self._lines = now, 0
        if self._lines >= self._most:
            self._left_out += 1
            return
        self._lines += 1
        if self._left_out:
            message += f" [{self._left_out} such lines were left out before]"
            self._left_out = 0
        self._logger.info(message, *args)
