"""What commands show while they work."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from inferential.cli.output import progress_bar, progress_bars


def test_a_bar_ends_full_though_less_had_to_be_done_than_there_was_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("simulating", 8, shown=True) as advance:
        for _ in range(6):
            advance()
    assert "100%" in capsys.readouterr().err


def test_bars_of_several_things_end_full_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars(10.0) as begin:
        for name in ("slo_aware", "round_robin"):
            advance = begin(name)
            assert advance is not None
            advance(9.5)
    shown = capsys.readouterr().err
    assert shown.rindex("100%") > shown.rindex("round_robin")
    assert shown.count("100%") >= 2


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("simulating", 2, shown=True) as advance:
        advance()
    with progress_bars(2.0) as begin:
        assert begin("simulating") is None
    assert capsys.readouterr().err == ""


def test_a_line_is_announced_in_one_piece_where_output_is_not_buffered() -> None:
    program = "from inferential.cli.output import announce; announce('a line')"
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # which keeps apart what is written
    with reader, writer:
        subprocess.run([sys.executable, "-u", "-c", program], stdout=writer, check=True, timeout=60)
        assert reader.recv(100) == b"a line\n"
