"""Names of code in the docs: each attribute of a class, and each file, that a page names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_BEFORE = {"migration.md"}
"""Pages with names of former versions."""


class _Classes:
    """The package's classes and what they have; of its files only those are parsed that are asked for."""

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}
        for path in (ROOT / "src").rglob("*.py"):
            names = re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            self._files.update(dict.fromkeys(names, path))
        self._trees: dict[Path, ast.Module] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def has(self, name: str, attribute: str) -> bool:
        """Whether a class or one that it inherits from defines it."""
        path = self._files.get(name)
        if path is None:
            return False
        if path not in self._trees:
            self._trees[path] = ast.parse(path.read_text(encoding="utf-8"))
        (found,) = [one for one in self._trees[path].body if isinstance(one, ast.ClassDef) and one.name == name]
        bases = [re.split(r"[.[]", ast.unparse(base))[0] for base in found.bases]
        return attribute in _names(found) or any(self.has(base, attribute) for base in bases)


def _names(of: ast.ClassDef) -> Iterator[str]:
    for found in ast.walk(of):
        if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
            yield found.name
        elif isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store):
            yield found.id
        elif isinstance(found, ast.Attribute) and isinstance(found.ctx, ast.Store):
            yield found.attr


def test_attributes_of_classes_that_pages_name_exist() -> None:
    classes = _Classes()
    missing = [
        f"{page.name}: {found[0]}"
        for page in PAGES
        if page.name not in OF_BEFORE
        for found in re.finditer(r"`([A-Z]\w+)\.([a-z_]\w+)[(`]", page.read_text(encoding="utf-8"))
        if found[1] in classes and not classes.has(found[1], found[2])
    ]
    assert missing == []


def test_files_of_the_package_that_the_page_on_its_rooms_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    there = {
        f"/{path.relative_to(ROOT)}" for folder in ("src", "bench", "tests") for path in (ROOT / folder).rglob("*.py")
    }
    assert named
    assert [name for name in sorted(named) if not any(path.endswith(f"/{name}") for path in there)] == []
