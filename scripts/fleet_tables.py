"""Tables of docs/schedulers.md and docs/simulator.md, from what the comparisons of strategies saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

_OURS = "slo_aware"
_ANSWERS = "slo_aware:answers"
_CELLS = ("64 H50", "64 H25", "128 H50", "128 H25")
_OUR_CELLS = (*_CELLS, *(f"{name} refreshed" for name in _CELLS))
_EXECUTED = ", executed"
_EQUAL, _FAST, _30_HZ = "pi0.5 L40S, equal", "pi0.5 L40S, one fast", "pi0.5 L40S, 30 Hz"
_STRATEGIES = ("slo_aware", "batch_optimized", "deadline_aware", "priority_tiered", "round_robin", "fifo")
_NAMES = {_ANSWERS: '`slo_aware`, `objective = "answers"`', "fifo": "first come, first served"}
_Rows = Mapping[tuple[str, str], Mapping[str, Any]]


def _by_cell(result: dict[str, Any]) -> _Rows:
    return {(row["cell"], row["rule"]): row for row in result["rows"]}


def _rules(rows: _Rows) -> list[str]:
    """Returns the rules in the order of the comparison, with that of answers after our own."""
    names = list(dict.fromkeys(rule for _, rule in rows))
    return [_OURS, *(name for name in names if name == _ANSWERS), *(n for n in names if n not in (_OURS, _ANSWERS))]


def _name(rule: str) -> str:
    return _NAMES.get(rule, f"`{rule}`")


def _starved(row: Mapping[str, Any]) -> str:
    return f"{100 * row['starved']:.1f}, {100 * row['starved_worst']:.0f}"


def closed_loop(result: dict[str, Any]) -> Iterator[str]:
    """Yields `slo_aware` beside the best other rule, on our fleets."""
    rows = _by_cell(result)
    yield '| robots | `slo_aware` | `objective = "answers"` | best other rule |'
    yield "|---|---|---|---|"
    others = [rule for rule in _rules(rows) if rule not in (_OURS, _ANSWERS)]
    for cell in (*_OUR_CELLS, *(name + _EXECUTED for name in _OUR_CELLS)):
        least = {key: min(rows[cell, rule][key] for rule in others) for key in ("starved", "starved_worst")}
        shown = [rows[cell, _OURS], rows[cell, _ANSWERS], least]
        cells = [f"{one['starved']:.1%}, worst {one['starved_worst']:.0%}" for one in shown]
        yield f"| {cell.replace(' H', ', H ').replace(' refreshed', ', refreshed')} | {' | '.join(cells)} |"


def on_our_fleets(result: dict[str, Any], ending: str = "") -> Iterator[str]:
    """Yields all rules on those of our fleets whose names end so."""
    rows = _by_cell(result)
    yield f"| rule | {' | '.join(name.replace(' refreshed', '*') for name in _OUR_CELLS)} |"
    yield "|---" * (1 + len(_OUR_CELLS)) + "|"
    for rule in _rules(rows):
        yield f"| {_name(rule)} | {' | '.join(_starved(rows[cell + ending, rule]) for cell in _OUR_CELLS)} |"


def on_others_fleets(result: dict[str, Any]) -> Iterator[str]:
    """Yields all rules on the fleets of other systems."""
    rows = _by_cell(result)
    yield "| rule | L40S equal | L40S one fast | of it fast, slow | 30 Hz | H100 98 % | ROSA 32 | ROSA 64 | Omni 8 |"
    yield "|---" * 9 + "|"
    for rule in _rules(rows):
        fast = rows[_FAST, rule]["classes"]
        cells = [
            _starved(rows[_EQUAL, rule]),
            _starved(rows[_FAST, rule]),
            f"{100 * fast['fast']:.0f}, {100 * fast['slow']:.0f}",
            _starved(rows[_30_HZ, rule]),
            f"{rows['2 Hz, SLO 156, H100', rule]['robots']:.1f}",
            *(f"{rows[name, rule]['qualified_per_s']:.1f}" for name in ("ROSA 32", "ROSA 64")),
            f"{rows['vLLM-Omni 8', rule]['answers_per_s']:.1f}",
        ]
        yield f"| {_name(rule)} | {' | '.join(cells)} |"


def open_loop(result: dict[str, Any]) -> Iterator[str]:
    """Yields answers in time as a share of the bound, where models share a device of its work."""
    rows = {(row["fleet"], row["strategy"], row["load"]): row for row in result["rows"]}
    fleets, loads = (list(dict.fromkeys(row[key] for row in result["rows"])) for key in ("fleet", "load"))
    yield f"| fleet | strategy | {' | '.join(f'{load:g}x' for load in loads)} |"
    yield "|---" * (2 + len(loads)) + "|"
    for fleet in fleets:
        key = "of_work" if fleet == "shared" else "of_bound"
        for strategy in _STRATEGIES:
            cells = [f"{rows[fleet, strategy, load][key]:.1%}" for load in loads]
            yield f"| `{fleet}` | {_name(strategy)} | {' | '.join(cells)} |"


def live(result: dict[str, Any]) -> Iterator[str]:
    """Yields robots over real sockets beside the same ones simulated."""
    yield "| strategy | starved, live | worst | starved, simulated | worst | observations for a chunk |"
    yield "|---|---|---|---|---|---|"
    for row in result["rows"]:
        cells = [f"{row[kind]['starved']:.1%} | {row[kind]['starved_worst']:.0%}" for kind in ("live", "simulated")]
        sent = row["live"]["observations_per_chunk"]
        yield f"| {_name(row['live']['strategy'])} | {' | '.join(cells)} | {sent:.1f} |"


def decisions(result: dict[str, Any]) -> Iterator[str]:
    """Yields what a decision costs, in microseconds."""
    yield "| strategy | waiting | rows of a call | chosen | decided | afterwards | a request taken in |"
    yield "|---|---|---|---|---|---|---|"
    for row in result["rows"]:
        name, _, what = row["strategy"].partition(", ")
        found = [row.get(key) for key in ("chosen_us", "decided_us", "afterwards_us", "taken_in_us")]
        cells = [f"{two[0]:.0f}, {two[1]:.0f}" if two else "" for two in found]
        yield f"| `{name}`{what and f', {what}'} | {row['waiting']} | {row['batch_size']} | {' | '.join(cells)} |"


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], Iterator[str]]]] = {
    "closed loop": ("fleet_rules", closed_loop),
    "rules on our fleets": ("fleet_rules", on_our_fleets),
    "rules on our fleets, executed": ("fleet_rules", partial(on_our_fleets, ending=_EXECUTED)),
    "rules on others' fleets": ("fleet_rules", on_others_fleets),
    "open loop": ("schedulers", open_loop),
    "robots over sockets": ("fleet", live),
    "decisions": ("decisions", decisions),
}
"""As those of `generate_bench_docs`."""
