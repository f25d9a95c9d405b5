"""The checks of words and of commit subjects find what they are for; `make lint` has them look at all pages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("the server is told", "told"),  # words: ok
        ("an untold story", "untold"),  # words: ok
        ("Whoever asks", "Whoever"),  # words: ok
        ("formats, as of openpi.", "as of"),  # words: ok
        ("as of 4.0", None),
        ("def test_a_port_that_is_taken_is_told():", "told"),  # words: ok
        ("asks_for_everybody = 1", "everybody"),  # words: ok
        ("it stole a folder; toldo", None),
        ("ClientBook(config)", "ClientBook"),  # words: ok
        ("`ClientBook` is now `ClientPolicies`", None),
    ],
)
def test_words_of_the_dialect_are_found_with_their_line(line: str, words: str | None) -> None:
    found = list(script("check_words").problems(f"first\n{line}\n"))
    assert [(number, word) for number, word, _ in found] == ([(2, words)] if words else [])


def test_a_line_can_be_excepted() -> None:
    assert list(script("check_words").problems("nobody  # words: ok")) == []


@pytest.mark.parametrize(
    ("subject", "good"),
    [
        ("config: name the column of an error", True),
        ("cli, docs: say what listens where", True),
        ("Merge branch 'main'", True),
        ("Fixed it", False),
        ("config: add a thing.", False),
        ("config: " + "x" * 70, False),
    ],
)
def test_commit_subjects_are_scope_and_imperative(subject: str, good: bool) -> None:
    assert (script("check_subject").problem(subject) is None) == good
