"""Tests look at parts as their users do: at nothing private."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
_PUBLIC = {"_asdict", "_fields", "_make", "_replace", "_exit"}  # the public face of named tuples, and of os
_BY_NAME = {"delattr", "getattr", "hasattr", "multiple", "object", "patch", "setattr"}


def is_private(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last.startswith("_") and not last.startswith("__") and last not in _PUBLIC


def private_looks(source: str) -> Iterator[int]:
    """Yields the lines that look at what is private to another object or to a module of the package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os")  # os._exit is public
            if not own:
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("inferential"):
            if any(is_private(alias.name) for alias in node.names):
                yield node.lineno
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            names = [one.value for one in node.args[:2] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            names += [one.arg for one in node.keywords if one.arg and called == "multiple"]
            ours = [name for name in names if "." not in name or name.startswith("inferential.")]
            if called in _BY_NAME and any(map(is_private, ours)):
                yield node.lineno


@pytest.mark.parametrize(
    "source",
    [
        "server._pump.runs",
        "from inferential.cluster import _binds",
        'monkeypatch.setattr(sync, "_LIMIT", 1)',
        'monkeypatch.setattr("inferential.client.sync._LIMIT", 1)',
        "patch.multiple(sync, _LIMIT=1)",
    ],
)
def test_a_private_look_is_found(source: str) -> None:
    assert list(private_looks(source)) == [1]


@pytest.mark.parametrize(
    "source", ["self._model.infer()", "slot._replace(shape=())", 'monkeypatch.setattr("ray.serve._client", None)']
)
def test_what_is_ones_own_or_public_or_another_packages_is_not(source: str) -> None:
    assert list(private_looks(source)) == []


def test_no_test_looks_at_what_is_private() -> None:
    """A public look instead: `server.status()`, `sizes()` of a part, an argument, or a public name with a docstring."""
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in private_looks(path.read_text())
    ]
    assert found == []
