"""`python -m fuzz.guided TARGET --minutes N`: fuzzes one target guided by coverage; needs `pip install atheris`."""

from __future__ import annotations

import argparse
import sys

from fuzz.inputs import CORPUS, FOUND


def main() -> None:
    """Hands the process to atheris, which ends it; inputs that reach new code are kept in memory only."""
    import atheris

    with atheris.instrument_imports(include=["inferential"]):
        from fuzz.targets import TARGETS
    parser = argparse.ArgumentParser(prog="python -m fuzz.guided", description=__doc__)
    parser.add_argument("target", choices=TARGETS, help="which one")
    parser.add_argument("--minutes", type=float, default=1.0, help="length (default 1)")
    args = parser.parse_args()
    folder = CORPUS / args.target
    options = [f"-max_total_time={int(args.minutes * 60)}", "-max_len=8192", f"-artifact_prefix={folder / FOUND}"]
    seeds = ",".join(str(path) for path in sorted(folder.glob("*.bin")))
    atheris.Setup([sys.argv[0], *options, f"-seed_inputs={seeds}"], TARGETS[args.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
