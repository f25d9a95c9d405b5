"""What is logged of the ends of a replica: a way to end in full once, and then in short."""

from __future__ import annotations

import logging

logger: logging.Logger = logging.getLogger("inferential.replica")


class EndLog:
    """Logs why processes of one replica have ended, or why it could not be loaded in this one.

    Args:
        label: of the replica.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._former = ""  # what kept the process before from loading its model
        self.trace: str = ""
        """The traceback of what keeps this one from it."""

    def note(self, reason: str, pid: int | None, *, was_up: bool, lost: int, delay_s: float) -> None:
        """Logs an end.

        Args:
            reason: in words.
            pid: of the process; None: there was none.
            was_up: whether it had loaded its model.
            lost: calls that it had.
            delay_s: when the next one is started.
        """
        whose = "" if pid is None else f" (process {pid})"
        when = f"; it is started again {f'in {delay_s:.1f} s' if delay_s else 'at once'}"
        if not was_up and reason == self._former:
            logger.info("%s cannot be loaded, as before%s%s", self._label, whose, when)
            return
        self._former = "" if was_up else reason
        calls = f"; calls lost: {lost}" if lost else ""
        trace = f"\n{self.trace}" if self.trace else ""
        logger.error("%s: %s%s%s%s%s", self._label, reason, whose, calls, when, trace)
