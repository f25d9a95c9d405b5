"""What the driver of ends finds where a server's ledger and its robots do not agree."""

from __future__ import annotations

import json
from pathlib import Path

from bench.soak import ledger

TAKEN_AND_SENT = [(1, "arrived", ""), (1, "OK", "")]


def entries(path: Path, *lines: tuple[int, str, str]) -> dict[int, ledger.Entry]:
    written = path / "ledger"
    written.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ledger.read(written)


def test_a_request_that_ended_as_its_robot_was_sent_is_no_fault(tmp_path: Path) -> None:
    assert ledger.faults(entries(tmp_path, *TAKEN_AND_SENT), {1: ["OK"]}) == []


def test_one_that_never_ended_is_found(tmp_path: Path) -> None:
    assert ledger.faults(entries(tmp_path, (1, "arrived", "")), {}) == ["1 was taken 1 times and ended as []"]


def test_an_answer_to_what_was_refused_is_found(tmp_path: Path) -> None:
    kept = entries(tmp_path, (1, "arrived", ""), (1, "EXPIRED", "ttl"))
    assert ledger.faults(kept, {1: ["OK"]}) == ["1 ended as ['EXPIRED'], its robot got ['OK']"]


def test_one_that_ends_twice_on_two_connections_is_found(tmp_path: Path) -> None:
    kept = entries(tmp_path, *TAKEN_AND_SENT, *TAKEN_AND_SENT)
    assert len(ledger.faults(kept, {})) == 1


def test_one_that_waits_on_for_its_robot_to_come_back_is_taken_again(tmp_path: Path) -> None:
    kept = entries(tmp_path, (1, "arrived", ""), (1, "REJECTED", "client_gone"), *TAKEN_AND_SENT)
    assert ledger.faults(kept, {1: ["OK"]}) == []


def test_what_the_server_never_took_or_whose_end_was_lost_with_the_connection_may_be_refused_as_that(
    tmp_path: Path,
) -> None:
    assert ledger.faults({}, {1: ["REJECTED not_arrived"], 2: ["INVALID_OBSERVATION invalid"]}) == []
    assert ledger.faults(entries(tmp_path, *TAKEN_AND_SENT), {1: ["REJECTED not_arrived"]}) == []
    assert ledger.faults({}, {1: ["REJECTED queue_full"]}) != []
