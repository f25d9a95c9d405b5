"""Where a model raised what it did, whatever its exceptions do when they are asked."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

_MAX_TRACE = 8000
_MAX_PLACES = 64
_NOT_OWN = (os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep, "<frozen importlib")


class FailurePlaces:
    """Says where failures were raised, for the log: the line of each, and of the first one there the traceback too.

    Args:
        within: what else is said of the place, such as its process; "": nothing.
    """

    def __init__(self, within: str = "") -> None:
        self._within = within
        self._known: set[tuple[str, int]] = set()

    def of(self, error: BaseException) -> str:
        """Returns it in brackets, the traceback in lines behind it; "" where there is nothing to say."""
        if error.__traceback__ is None and error.__cause__ is not None:
            error = error.__cause__
        trace = _own(error.__traceback__)
        if trace is None:  # the fault was found in this package
            return f" ({self._within})" if self._within else ""
        where = _last(trace)
        said = f"{where[0]}:{where[1]}" + (f", {self._within}" if self._within else "")
        if where in self._known or len(self._known) >= _MAX_PLACES:
            return f" ({said})"
        self._known.add(where)
        return f" ({said})\n{_in_lines(error, trace)}"


def forget_frames(error: BaseException | None) -> None:
    """Drops the tracebacks of an exception and of what led to it, once they are said.

    Their frames hold the observations, and mostly the exception itself: until the garbage collector comes to such a
    circle, which is when thousands of objects are new, each failed call would keep its payloads.
    """
    known: set[int] = set()
    linked = [error]
    while linked:
        one = linked.pop()
        if one is not None and id(one) not in known:
            known.add(id(one))
            one.__traceback__ = None
            linked += (one.__cause__, one.__context__)


def is_first(place: str) -> bool:
    """Returns whether a place that `FailurePlaces` said has a traceback."""
    return "\n" in place


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Returns the part of a traceback that begins in the model's own code."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_OWN):
        trace = trace.tb_next
    return trace


def _last(trace: TracebackType) -> tuple[str, int]:
    """Returns file and line of the innermost frame of the model's own code, or of what that calls."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(trace)]
    return [frame for frame in frames if not frame[0].startswith(_NOT_OWN)][-1]


def _in_lines(error: BaseException, trace: TracebackType) -> str:
    try:
        text = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    except BaseException as broken:
        text = f"its traceback cannot be read: {type(broken).__name__}"
    return text if len(text) <= _MAX_TRACE else f"{text[: _MAX_TRACE // 2]}\n...\n{text[-_MAX_TRACE // 2 :]}"
