"""`python -m bench [NAME ...]`: runs the benchmarks and writes bench/results/NAME.json."""

from __future__ import annotations

import argparse
import importlib
import json

from rich.console import Console

from bench.harness import save

NAMES = ("isolation", "churn")


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones; all by default: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (default 5)")
    parser.add_argument("--json", action="store_true", help="print results as JSON on standard output")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    console = Console(stderr=True)
    for name in args.names or NAMES:
        module = importlib.import_module(f"bench.{name}")
        with console.status(f"{name}: {(module.__doc__ or '').splitlines()[0]}"):
            result = module.run(args.seconds)
        path = save(name, result)
        if args.json:
            print(json.dumps({name: result}))
        else:
            console.print(f"[bold]{name}[/bold] -> {path}")
            console.print_json(json.dumps(result))


if __name__ == "__main__":
    main()
