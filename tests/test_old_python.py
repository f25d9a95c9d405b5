"""The robot's side and model workers keep to what Python 3.10 has; tests/peers/test_pythons.py runs them there."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import inferential
from inferential.old_python import ROOMS, refuse_server

PACKAGE = Path(inferential.__file__).parent
NEW_NAMES = {
    "typing": "Self LiteralString Never NotRequired Required TypeVarTuple Unpack assert_never assert_type override "
    "reveal_type dataclass_transform get_overloads TypeAliasType NoDefault ReadOnly TypeIs",
    "asyncio": "timeout timeout_at TaskGroup Runner Barrier Timeout",
    "enum": "StrEnum ReprEnum EnumCheck FlagBoundary verify member nonmember property global_enum",
    "datetime": "UTC",
    "contextlib": "chdir",
    "hashlib": "file_digest",
    "itertools": "batched",
    "math": "exp2 cbrt sumprod fma",
    "operator": "call",
    "sys": "exception",
    "collections.abc": "Buffer",
    "inspect": "getmembers_static markcoroutinefunction",
    "os": "process_cpu_count",
}
"""Names that came with Python 3.11 or later, by the module that has them."""
NEW_MODULES = {"tomllib", "wsgiref.types", "importlib.resources.abc"}
NEW_BUILTINS = {"ExceptionGroup", "BaseExceptionGroup", "PythonFinalizationError"}
NEW_METHODS = {"add_note", "cancelling", "uncancel"}
# Run by servers alone, or by Ray, whose nodes all have one Python.
SERVERS = {
    "deployment",
    "directory",
    "endpoint",
    "endpoint_rows",
    "process",
    "registry",
    "spawn",
    "zmq_socket",
}


def modules() -> Iterator[Path]:
    yield PACKAGE / "__init__.py"
    for room in ROOMS:
        place = PACKAGE / room
        yield from sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def for_old_pythons() -> list[Path]:
    return [path for path in modules() if not (path.parent.name == "replica" and path.stem in SERVERS)]


class Newer(ast.NodeVisitor):
    """Notes what a Python 3.10 lacks; what stands under TYPE_CHECKING is never run."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                self.visit(other)
            return
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [f"{node.lineno}: {alias.name}" for alias in node.names if alias.name in NEW_MODULES]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        new = NEW_NAMES.get(node.module or "", "").split()
        self.found += [f"{node.lineno}: {alias.name}" for alias in node.names if alias.name in new]
        if node.module in NEW_MODULES:
            self.found.append(f"{node.lineno}: {node.module}")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in NEW_BUILTINS:
            self.found.append(f"{node.lineno}: {node.id}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if node.attr in NEW_NAMES.get(owner, "").split() or node.attr in NEW_METHODS:
            self.found.append(f"{node.lineno}: {ast.unparse(node)}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = (
            node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
        )
        least = {"to_bytes": 2, "from_bytes": 2}.get(name, 0)
        given = len(node.args) + sum(word.arg == "byteorder" for word in node.keywords)
        # A number's bytes need an order of them; classes of ours have methods of these names too.
        if given < least and (name == "from_bytes") == (owner == "int") and (owner == "int" or given):
            self.found.append(f"{node.lineno}: {name} without a byte order")
        self.generic_visit(node)


@pytest.mark.parametrize("path", for_old_pythons(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_robots_and_workers_run_uses_nothing_newer_than_python_3_10(path: Path) -> None:
    newer = Newer()
    newer.visit(ast.parse(path.read_text(), feature_version=(3, 10)))
    assert newer.found == []


class Rooms(Newer):
    """Notes what is imported of the package as a module is, that an old Python refuses."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """What a function imports is asked for when it is called."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        package, _, module = (node.module or "").partition(".")
        if package == "inferential" and module and module.partition(".")[0] not in ROOMS:
            self.found.append(f"{node.lineno}: {node.module}")


@pytest.mark.parametrize("path", for_old_pythons(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_robots_and_workers_run_imports_nothing_that_an_old_python_refuses(path: Path) -> None:
    rooms = Rooms()
    rooms.visit(ast.parse(path.read_text()))
    assert rooms.found == []


@pytest.mark.parametrize(
    "source",
    [
        "from typing import Self",
        "async def f():\n    async with asyncio.timeout(1): pass",
        "import tomllib",
        "raise ExceptionGroup('', [])",
        "size.to_bytes(4)",
        "int.from_bytes(data)",
        "error.add_note('more')",
    ],
)
def test_the_check_sees_what_is_newer(source: str) -> None:
    newer = Newer()
    newer.visit(ast.parse(source))
    assert len(newer.found) == 1


def test_newer_syntax_does_not_pass() -> None:
    with pytest.raises(SyntaxError):
        ast.parse("try: pass\nexcept* OSError: pass", feature_version=(3, 10))


def test_an_old_python_refuses_the_server_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    refuse_server()
    refusing = sys.meta_path[0]
    for name in ("inferential.server", "inferential.cli.main", "inferential.gateway", "inferential.cluster"):
        with pytest.raises(ImportError, match=re.escape(f"{name} needs Python 3.11 or newer, this is ")):
            refusing.find_spec(name, None)
    for name in ("inferential", "inferential.client.sync", "inferential.replica.worker", "inferential.errors", "ray"):
        assert refusing.find_spec(name, None) is None
