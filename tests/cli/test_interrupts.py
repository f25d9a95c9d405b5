"""What Ctrl-C does to a server; with a real one it is in test_serve.py."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from inferential.cli.interrupts import Interrupts, draining


def test_the_first_stops_and_the_second_ends(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[Any] = []
    interrupts = Interrupts(lambda: done.append("stop"), lambda: draining(2.5), done.append)
    interrupts()
    assert done == ["stop"]
    assert capsys.readouterr().out == "draining, for 2.5 s at most; Ctrl-C again ends it at once\n"
    interrupts()
    assert done == ["stop", 130]


def test_a_reader_that_is_gone_keeps_nothing_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(os, "dup2", lambda new, old: None)  # it would be the output of the tests
    done: list[Any] = []
    Interrupts(lambda: done.append("stop"), lambda: "", done.append)()
    assert done == ["stop"]
    sys.stdout.close()  # the null device, in its place
