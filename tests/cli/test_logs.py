"""What is logged is written by a thread, in order, and bounded; no line can be taken for another."""

from __future__ import annotations

import io
import logging
import os
import threading
from typing import Any

import pytest

from inferential.cli import logs
from inferential.cli.logs import BackgroundHandler, TextFormatter


def record(text: str, *args: Any) -> logging.LogRecord:
    return logging.LogRecord("robots", logging.INFO, __file__, 1, text, args, None)


def test_lines_are_written_in_order_and_flushing_waits_for_them() -> None:
    stream = io.StringIO()
    handler = BackgroundHandler(stream)
    for number in range(1000):
        handler.emit(record("line %d", number))
    handler.flush()
    assert stream.getvalue().splitlines() == [f"line {number}" for number in range(1000)]


def test_a_reader_that_does_not_read_holds_up_no_robot_and_learns_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING", 50)
    monkeypatch.setattr(logs, "LAST_S", 0.01)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        handler = BackgroundHandler(stream)
        for _ in range(400):
            handler.emit(record("x" * 1000))  # the pipe takes 64 KiB
        handler.flush()
        monkeypatch.setattr(logs, "LAST_S", 10.0)
        found = bytearray()

        def read_all() -> None:
            while data := os.read(reader, 1 << 16):
                found.extend(data)

        read = threading.Thread(target=read_all)
        read.start()
        handler.flush()
        handler.emit(record("the last one"))
        handler.flush()
    read.join()
    os.close(reader)
    lines = found.decode().splitlines()
    assert lines[-1] == "the last one"
    lost = sum(int(line.split()[0]) for line in lines if "lines were lost here, as none were read" in line)
    assert lost + sum(line == "x" * 1000 for line in lines) == 400
    assert lost > 200


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    with open("/dev/full", "w") as full:
        handler = BackgroundHandler(full)
        for _ in range(10):
            handler.emit(record("a line"))
        handler.flush()


def test_where_no_thread_can_be_started_lines_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    stream = io.StringIO()
    handler = BackgroundHandler(stream)
    with monkeypatch.context() as limited:
        limited.setattr(logs, "LAST_S", 0.01)
        limited.setattr(threading.Thread, "start", fail)
        handler.emit(record("the first"))
        handler.flush()
    handler.emit(record("the second"))
    handler.flush()
    assert stream.getvalue().splitlines() == ["the first", "the second"]


def test_as_many_lines_as_may_wait_without_a_thread_are_written_once_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    stream = io.StringIO()
    handler = BackgroundHandler(stream)
    monkeypatch.setattr(logs, "MAX_WAITING", 1)
    monkeypatch.setattr(logs, "LAST_S", 60.0)
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", fail)
        handler.emit(record("the first"))
        handler.emit(record("lost"))
    handler.emit(record("lost too"))
    handler.flush()
    assert stream.getvalue().splitlines()[0] == "the first"


def test_a_line_within_a_message_cannot_be_taken_for_a_message_of_its_own() -> None:
    text = TextFormatter("%(levelname)s %(message)s").format(record("client %s", "evil\nERROR on fire\x1b[31m"))
    assert text == "INFO client evil\n    ERROR on fire\\x1b[31m"
