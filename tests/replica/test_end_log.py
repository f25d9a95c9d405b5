"""What is logged of the ends of a worker process."""

from __future__ import annotations

import pytest

from inferential.replica.end_log import EndLog

Lines = list[tuple[str, str]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "inferential.replica")
    return caplog


def said(caplog: pytest.LogCaptureFixture) -> Lines:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_what_keeps_each_process_from_loading_its_model_is_said_once(lines: pytest.LogCaptureFixture) -> None:
    log = EndLog("model m")
    log.trace = "Traceback\n  ..."
    for pid, delay_s in ((7, 0.1), (8, 0.2)):
        log.note("no weights", pid, was_up=False, lost=0, delay_s=delay_s)
    log.trace = ""
    log.note("no memory", 9, was_up=False, lost=0, delay_s=0.4)
    assert said(lines) == [
        ("ERROR", "model m: no weights (process 7); it is started again in 0.1 s\nTraceback\n  ..."),
        ("INFO", "model m cannot be loaded, as before (process 8); it is started again in 0.2 s"),
        ("ERROR", "model m: no memory (process 9); it is started again in 0.4 s"),
    ]


def test_each_end_of_a_model_that_was_there_is_an_error(lines: pytest.LogCaptureFixture) -> None:
    log = EndLog("model m")
    for lost, delay_s in ((2, 0.0), (0, 0.2)):
        log.note("it was killed", 7, was_up=True, lost=lost, delay_s=delay_s)
    assert said(lines) == [
        ("ERROR", "model m: it was killed (process 7); calls lost: 2; it is started again at once"),
        ("ERROR", "model m: it was killed (process 7); it is started again in 0.2 s"),
    ]


def test_where_no_process_can_be_started_none_is_named(lines: pytest.LogCaptureFixture) -> None:
    EndLog("model m").note("no such interpreter", None, was_up=False, lost=0, delay_s=0.1)
    assert said(lines) == [("ERROR", "model m: no such interpreter; it is started again in 0.1 s")]
