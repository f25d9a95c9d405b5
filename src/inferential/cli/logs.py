"""What a command logs, to standard error: as text for people, or as JSON for collectors of logs.

What is logged is each module's own business. It is written by a thread, so that no robot waits for who reads it: a pipe
that is full, a terminal that was stopped by Ctrl-S.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import re
import sys
import threading
from collections import deque
from datetime import UTC, datetime
from typing import TextIO

from inferential.cli.output import announced, printable_lines


class LogLevel(enum.StrEnum):
    """What is logged: this and worse."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(enum.StrEnum):
    """How it is written."""

    text = "text"
    json = "json"


_NOT_ASCII = re.compile(r"[^\x20-\x7e]")


class TextFormatter(logging.Formatter):
    """For people: what a terminal would act on, in words of robots or models, is escaped. Lines stay lines, and those
    of a message behind the first are indented, so that none can be taken for a message of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        return printable_lines(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Returns its first part, without an exception."""
        return super().formatMessage(record).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """One object a line: time (ISO 8601, UTC), level, logger, message, and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line of a record."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        text = json.dumps(entry, ensure_ascii=False)
        return _NOT_ASCII.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    """Returns a character as JSON escapes it, if it cannot be seen."""
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


MAX_WAITING = 10_000
"""Lines that wait to be written; later ones are lost, and counted."""
LAST_S = 1.0
"""How long the end waits for who reads."""


class BackgroundHandler(logging.Handler):
    """Writes what is logged by a thread of its own.

    Args:
        stream: where to; None: standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque()
        self._lost = 0
        self._changed = threading.Condition()
        self._writing = False
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Has a record written soon."""
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._write, name="inferential-log", daemon=True)
                # Where the system allows no more threads or memory, the next line tries again, also one that is lost.
                with contextlib.suppress(RuntimeError, MemoryError):
                    thread.start()
                    self._thread = thread
            if len(self._lines) >= MAX_WAITING:
                self._lost += 1
                return
            if self._lost:
                text = f"{self._lost} lines were lost here, as none were read\n{text}"
                self._lost = 0
            self._lines.append(text)
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until all is written, for a second at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._writing, LAST_S)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines)
                lines, self._writing = list(self._lines), True
                self._lines.clear()
            # The disk is full, or the reader is gone: there is no other place to say so.
            with contextlib.suppress(OSError, ValueError):
                _write_to(self._stream or sys.stderr, "".join(f"{line}\n" for line in lines))


def _write_to(stream: TextIO, text: str) -> None:
    """Writes past the stream's buffer, whose lock would keep the interpreter from ending while it is not read."""
    try:
        fd = stream.fileno()
    except (OSError, AttributeError):  # one in memory
        stream.write(text)
        return
    rest = text.encode("utf-8", "backslashreplace")
    while rest:
        rest = rest[os.write(fd, rest) :]


def set_up_logging(level: LogLevel, form: LogFormat) -> None:
    """Has all that is logged written to standard error; as JSON also what is printed beside it."""
    handler = BackgroundHandler()
    if form is LogFormat.json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        announced.setLevel(logging.WARNING)  # a terminal would show it twice
    logging.basicConfig(level=level.value.upper(), handlers=[handler])
    for name in ("uvicorn", "watchfiles"):  # whose news are ours too, in other words
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
