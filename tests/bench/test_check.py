"""The guard reports what became slower, and nothing else."""

from __future__ import annotations

from typing import Any

from bench.check import check_bytecodes, check_ratios


def ratios(p50: float, cpu: float = 1.0) -> dict[str, Any]:
    return {"jobs": {"1 client": {"ours": {"p50_us_ratio": p50, "server_cpu_us_ratio": cpu}}}}


def test_a_ratio_within_the_noise_is_not_reported() -> None:
    assert check_ratios(ratios(2.0), ratios(2.5)) == []
    assert check_ratios(ratios(2.0), ratios(1.0)) == []


def test_a_ratio_beyond_it_is_reported_with_both_figures() -> None:
    assert check_ratios(ratios(2.0), ratios(3.0)) == ["1 client: p50_us_ratio 3.00, committed 2.00"]
    assert check_ratios(ratios(2.0, 1.0), ratios(2.0, 2.0)) == ["1 client: server_cpu_us_ratio 2.00, committed 1.00"]


def test_bytecodes_are_held_closely_and_only_for_the_same_python() -> None:
    committed = {"python": "3.11", "bytecodes": {"decode": 1000}}
    assert check_bytecodes(committed, {"python": "3.11", "bytecodes": {"decode": 1050}}) == []
    assert check_bytecodes(committed, {"python": "3.11", "bytecodes": {"decode": 1051}}) == [
        "bytecodes of decode: 1051, committed 1000"
    ]
    assert check_bytecodes(committed, {"python": "3.12", "bytecodes": {"decode": 9000}}) == []
