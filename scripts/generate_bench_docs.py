"""Writes the tables of pages of docs that show what is in bench/results.

python scripts/generate_bench_docs.py          write them
python scripts/generate_bench_docs.py --check  exit code 1 if one is out of date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import fleet_tables

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGES = ("performance", "demo", "networks", "recording", "schedulers", "simulator", "tutorials/new-version")
_PEERS = {
    "raw": "raw ZeroMQ",
    "raw:process": "the same, through a process",
    "ours:function_process": "function, `process`",
    "ours:batch_process": "`infer_batch`, `process`",
    "ours:function_thread": "function, `thread`",
    "ours:batch_thread": "`infer_batch`, `thread`",
    "ours:function_inline": "function, `inline`",
    "openpi": "openpi-server",
    "inferential_1_4:function": "1.4.0, function",
    "litserve": "LitServe",
}
_RECORDINGS = {
    "jpeg": "JPEG, no model time",
    "raw": "raw, no model time",
    "jpeg-20ms": "JPEG, a model of 20 ms",
    "raw-20ms": "raw, a model of 20 ms",
}
_ONE = ("1 client, 64 B", "1 client, 150 kB", "1 client, 1 MB")
_EIGHT = "8 clients, 64 B"


def main() -> int:
    stale = 0
    for page in (ROOT / "docs" / f"{name}.md" for name in PAGES):
        text = page.read_text(encoding="utf-8")
        new = updated(text)
        if "--check" in sys.argv[1:]:
            if new != text:
                print(f"{page} is out of date: python {sys.argv[0]}", file=sys.stderr)
                stale = 1
        else:
            page.write_text(new, encoding="utf-8")
    return stale


def updated(page: str) -> str:
    """Returns a page with the tables that it has places for, as the results are now."""
    for name, (file, table) in TABLES.items():
        begin, end = f"<!-- {name}: written by scripts/generate_bench_docs.py -->\n", f"<!-- end of {name} -->\n"
        if begin in page:
            before, _, rest = page.partition(begin)
            path = RESULTS / f"{file}.json"
            lines = table(json.loads(path.read_text())) if path.exists() else ["Not measured yet."]
            shown = "".join(f"{line}\n" for line in lines)
            page = f"{before}{begin}\n{shown}\n{end}{rest.partition(end)[2]}"
    return page


def coroutine_stages(result: dict[str, Any]) -> Iterator[str]:
    """Yields the budget of a coroutine on the event loop."""
    yield from ("| stage | us |", "|---|---|")
    yield from (f"| {stage} | {us:.0f} |" for stage, us in result["stages"].items())
    yield f"| **the round trip** | **{result['round_trip']:.0f}** |"


def process_stages(result: dict[str, Any]) -> Iterator[str]:
    """Yields that of a function in a process."""
    if "process" in result:
        yield from coroutine_stages(result["process"])
    else:
        yield "Not measured yet."


_BESIDE = {
    "raw": "raw ZeroMQ",
    "ours": "Inferential",
    "inferential_1_4": "Inferential 1.4.0",
    "openpi": "openpi-server",
    "grpc_echo": "gRPC unary",
}


def overhead(result: dict[str, Any]) -> Iterator[str]:
    """Yields round trips, or answers of clients in closed loops, by kind of load."""
    yield f"| | {' | '.join(_BESIDE.values())} |"
    yield "|---" * (1 + len(_BESIDE)) + "|"
    for job, found in result["jobs"].items():
        rate = job.startswith("8 clients")
        cells = [
            f"{one['per_second']:,.0f} ({one['per_second_ratio']:.2f})"
            if rate
            else f"{one['p50_us']:,.0f} / {one['p99_us']:,.0f} ({one['p50_us_ratio']:.2f})"
            for one in (found[name] for name in _BESIDE)
        ]
        yield f"| {job}{', answers/s' * rate} | {' | '.join(cells)} |"


def functions(result: dict[str, Any]) -> Iterator[str]:
    """Yields round trips and answers by peer."""
    jobs = result["one"]["jobs"] | result["eight"]["jobs"]
    yield f"| | {' | '.join(_ONE)} | {_EIGHT}: answers/s | times 1.4.0's |"
    yield "|---|---|---|---|---|---|"
    former = jobs[_EIGHT].get("inferential_1_4:function")
    for name, title in _PEERS.items():
        if name not in jobs[_EIGHT]:
            continue
        trips = [jobs[job][name] for job in _ONE]
        cells = [f"{one['p50_us']:,.0f} / {one['p99_us']:,.0f} ({one['p50_us_ratio']:.2f})" for one in trips]
        many = jobs[_EIGHT][name]
        times = f"{many['per_second'] / former['per_second']:.1f}" if former else "-"
        share = f"{many['per_second']:,.0f} ({many['per_second_ratio']:.2f})"
        yield f"| {title} | {' | '.join(cells)} | {share} | {times} |"


def isolation(result: dict[str, Any]) -> Iterator[str]:
    """Yields what models that hold the interpreter's lock cost an idle one."""
    if "beside_models_that_hold_the_lock" not in result:
        yield "Not measured yet."
        return
    yield from ("| all models in | alone | beside one | beside two |", "|---|---|---|---|")
    for place, found in result["beside_models_that_hold_the_lock"].items():
        beside = [found[f"beside_{number}"] for number in range(3)]
        cells = [f"{one['p50_ms']:.2f} / {one['p99_ms']:.1f}" for one in beside]
        yield f"| {place} | {' | '.join(cells)} |"


def recording(result: dict[str, Any]) -> Iterator[str]:
    """Yields what a robot pays where its server records."""
    yield (
        "| cameras, and the model | p50 / p99 ms | with recording | times: p50, mean, p99 | without, again: p50 | "
        "without, beside a process: p50 | loop's CPU, ms | lost |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for key, name in _RECORDINGS.items():
        row = result[key]
        off, on = row["off"], row["on"]
        ages = [f"{one['p50_ms']:.1f} / {one['p99_ms']:.1f}" for one in (off, on)]
        times = f"{_ratio(row, 'ratio_p50')}, {row['ratio_mean']:.2f}, {row['ratio_p99']:.2f}"
        loop = f"{off['loop_cpu_ms']:.2f}, {on['loop_cpu_ms']:.2f}"
        others = f"{_ratio(row, 'again_p50')} | {_ratio(row, 'beside_p50')}"
        yield f"| {name} | {' | '.join(ages)} | {times} | {others} | {loop} | {on['dropped']:.0f} |"


def _ratio(row: dict[str, Any], key: str) -> str:
    """Returns a ratio, and between what it is in nine of ten draws of the rounds, where the run had rounds."""
    found = row.get(f"{key}_from_to")
    return f"{row[key]:.2f}" if found is None else f"{row[key]:.2f} ({found[0]:.2f} to {found[1]:.2f})"


def rollout(result: dict[str, Any]) -> Iterator[str]:
    yield "| 16 robots at 50 Hz | falls | lost | of another version | taken back after | longest without an action, s |"
    yield "|---|---|---|---|---|---|"
    for name, trial in result["trials"].items():
        requests = trial.get("taken_back_after_requests")
        back = "" if requests is None else f"{requests} requests, {trial['taken_back_after_s']:.2f} s"
        gap = f"{trial['longest_gap_s']:.2f}"
        yield f"| {name} | {trial['falls']} | {trial['lost']} | {trial['mixed']} | {back} | {gap} |"


def peers(result: dict[str, Any]) -> Iterator[str]:
    """Yields a row for each server and load."""
    yield "| load | server | never fell | falls | age p50, p95 ms | in time | actions/s | batch |"
    yield "|---|---|---|---|---|---|---|---|"
    for cell in result["cells"]:
        name = "this" if cell["software"] == "this" else cell["software"]
        age = "-" if cell["age_p50_ms"] is None else f"{cell['age_p50_ms']:.0f}, {cell['age_p95_ms']:.0f}"
        batch = f"{cell['mean_batch_size']:.1f}" if cell["mean_batch_size"] else "-"
        fell = f"{cell['kept_up']} of {cell['robots']} | {cell['falls']}"
        share, rate = f"{cell['on_time']:.1%}", f"{cell['actions_per_s']:.0f}"
        yield f"| {cell['load']:g}x | {name} | {fell} | {age} | {share} | {rate} | {batch} |"


_ROBOTS = {
    "sync": "asks and waits",
    "async": "goes on observing",
    "chunks": "`ChunkRuntime`",
    "openpi": "openpi's client",
    "lerobot": "LeRobot's rules",
}


def networks(kind: str) -> Callable[[dict[str, Any]], Iterator[str]]:
    """Returns a function that yields what robots see over networks of one kind."""

    def lines(result: dict[str, Any]) -> Iterator[str]:
        if kind not in result:
            yield "Not measured: it needs root on Linux."
            return
        yield "| network | robot | answers/s | age, ms: p50 / p99 / most | starved | back | oldest | then starved |"
        yield "|---|---|---|---|---|---|---|---|"
        for network, robots in result[kind].items():
            for robot, rows in robots.items():
                shown = [_middle(rows, name) for name in ("answers_per_s", "age_p50_ms", "age_p99_ms", "age_max_ms")]
                ages = " / ".join(map(_ms, shown[1:]))
                back, oldest = _ms(_middle(rows, "back_after_ms")), _ms(_middle(rows, "oldest_after_ms"))
                cells = [network, _ROBOTS[robot], shown[0], ages, _middle_share(rows, "starved"), back, oldest]
                yield "| " + " | ".join(map(str, [*cells, _middle_share(rows, "starved_after")])) + " |"

    return lines


def outages(result: dict[str, Any]) -> Iterator[str]:
    """Yields what robots that play chunks have after an outage, beside the least that their networks allow."""
    yield "| | network | back, ms: least | measured | steps until then: least | measured | later | before |"
    yield "|---|---|---|---|---|---|---|---|"
    for kind in ("emulated", "packets"):
        for network, cases in result.get(kind, {}).items():
            least, runs = cases["least"], [row for row in cases["runs"] if "failed" not in row]
            later = [_steps(row["starved_after"]) - row["starved_until_back"] for row in runs]
            before = [_steps(row["starved"]) for row in runs]
            yield "| " + " | ".join(
                [
                    kind,
                    network,
                    *(_spread(least, "back_{}_ms"), _medians([row["back_after_ms"] for row in runs])),
                    *(_spread(least, "steps_{}"), _medians([row["starved_until_back"] for row in runs])),
                    f"{mean(later):.1f} | {mean(before):.1f} |",
                ]
            )


def _middle(rows: list[dict[str, Any]], name: str) -> float | None:
    """Returns the median of a figure; None where half of the robots have none."""
    found = sorted((row[name] for row in rows if row.get(name) is not None), reverse=True)
    missing = len(rows) - len(found)
    place = (len(rows) - 1) // 2 - missing
    return found[place] if place >= 0 else None


def _middle_share(rows: list[dict[str, Any]], name: str) -> str:
    """Returns the row in the middle by its starved steps, as "N of M"; one that failed is the worst."""
    found = sorted((row[name] for row in rows if row.get(name) is not None), key=_steps)
    place = len(rows) // 2
    return found[place] if place < len(found) else "-"


def _steps(share: str) -> int:
    return int(share.split()[0])


def _spread(least: dict[str, float], name: str) -> str:
    p10, p50, p90 = (least[name.format(share)] for share in ("p10", "p50", "p90"))
    return f"{p50:,.0f} ({p10:,.0f} to {p90:,.0f})"


def _medians(values: list[float]) -> str:
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], Iterator[str]]]] = {
    "stages": ("stages", coroutine_stages),
    "stages of a process": ("stages", process_stages),
    "overhead": ("overhead", overhead),
    "functions": ("functions", functions),
    "isolation": ("isolation", isolation),
    "recording": ("recording", recording),
    "peers": ("closed_loop_peers", peers),
    "emulated networks": ("network", networks("emulated")),
    "networks of packets": ("network", networks("packets")),
    "outages": ("outages", outages),
    "versions under load": ("rollout", rollout),
    **fleet_tables.TABLES,
}
"""By name: the file of bench/results, and the lines of its table."""

if __name__ == "__main__":
    sys.exit(main())
