"""Asks a user's scheduler: what it raises is logged, and stops nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from inferential.scheduler.base import QueueFullError
from inferential.scheduler.request import InferenceRequest

logger: logging.Logger = logging.getLogger("inferential.scheduler")

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


class Asked:
    """The failures of one scheduler, of which the first is logged.

    Args:
        name: of the scheduler.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._failed = False

    def __call__(
        self, otherwise: _Answer, ask: Callable[_Given, _Answer], *given: _Given.args, **named: _Given.kwargs
    ) -> _Answer:
        """Returns what the scheduler answers; `otherwise` where it raises."""
        try:
            return ask(*given, **named)
        except Exception:
            self._note_failure()
            return otherwise

    def submit(self, submit: Callable[[InferenceRequest], None], request: InferenceRequest) -> None:
        """Submits a request; raises what the scheduler raises, which refuses it."""
        try:
            submit(request)
        except QueueFullError:
            raise
        except Exception:
            self._note_failure()
            raise

    def _note_failure(self) -> None:
        """Logs the exception that is handled, if it is the first."""
        if not self._failed:
            self._failed = True
            logger.exception("scheduler %s failed; further failures are not logged", self._name)
