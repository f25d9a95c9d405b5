"""Runs the command line, as `inferential` does: `python -m inferential`."""

from inferential.cli.main import main

if __name__ == "__main__":
    main()
