"""`inferential version`.

It reads the metadata of installed packages and imports none of them.
"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from inferential.cli.output import print_json, print_rows

EXAMPLES = ("inferential version", "inferential version --json")
PACKAGES = ("inferential", "pyzmq", "protobuf", "numpy", "pydantic", "ray")
"""The packages whose versions are shown, in this order."""


def version(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the versions of what is installed."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version_of(package)
        except PackageNotFoundError:
            versions[package] = None
    versions["python"] = platform.python_version()
    if as_json:
        print_json(versions)
    else:
        print_rows(("package", "version"), [(name, found or "not installed") for name, found in versions.items()])
