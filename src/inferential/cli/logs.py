"""What a command logs, to standard error: as text for people, or as JSON for collectors of logs.

What is logged is each module's own business.
"""

from __future__ import annotations

import enum
import json
import logging
import re
from datetime import UTC, datetime

from inferential.cli.output import printable_lines


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
    """For people: what a terminal would act on, in words of robots or models, is escaped; lines stay lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        return printable_lines(super().format(record))


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


def set_up_logging(level: LogLevel, form: LogFormat) -> None:
    """Has all that is logged written to standard error."""
    handler = logging.StreamHandler()
    if form is LogFormat.json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.value.upper(), handlers=[handler])
    for name in ("uvicorn", "watchfiles"):  # whose news are ours too, in other words
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))
