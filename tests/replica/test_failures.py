"""Where a model raised what it did."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

from inferential.replica import targets
from inferential.replica.failures import FailurePlaces, is_first
from inferential.replica.targets import TargetError, load_target

MODEL = """
def deep(count):
    if count:
        return deep(count - 1)
    raise KeyError("state")

def endless():
    return endless()

def large():
    raise ValueError("x" * 100_000)

class Broken(Exception):
    def __str__(self):
        raise SystemExit

def broken():
    raise Broken

def fails(number):
    exec(compile("\\n" * number + "raise ValueError", "place", "exec"))
"""


def makes_none() -> Any:
    """What is to make a model, and fails."""
    raise ValueError("no weights")


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """A module of a model."""
    path = tmp_path / "policies.py"
    path.write_text(MODEL)
    module = types.ModuleType("policies")
    exec(compile(MODEL, str(path), "exec"), vars(module))
    return module


def raised(function: Any, *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("it did not fail")


def unloadable(target: str) -> TargetError:
    """Returns the error of a target that leads to no model, as a worker meets it."""
    error = raised(load_target, target, {})
    assert isinstance(error, TargetError)
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)  # without this file


def test_the_first_failure_at_a_place_has_a_traceback_of_the_models_own_code(model: Any, tmp_path: Path) -> None:
    places = FailurePlaces("process 7")
    first = places.of(raised(model.deep, 2))
    where, *trace = first.splitlines()
    assert where == f" ({tmp_path / 'policies.py'}:5, process 7)"
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "KeyError: 'state'"
    assert is_first(first)
    again = places.of(raised(model.deep, 0))
    assert again == where
    assert not is_first(again)


def test_what_this_package_found_has_no_place_but_its_process() -> None:
    error = unloadable("json:nothing")
    assert FailurePlaces().of(error) == ""
    assert FailurePlaces("process 7").of(error) == " (process 7)"


def test_of_what_is_raised_within_this_package_the_models_part_is_shown() -> None:
    cause = unloadable("tests.replica.test_failures:makes_none").__cause__
    assert cause is not None
    said = FailurePlaces().of(cause)
    assert said.startswith(f" ({__file__}:")
    assert targets.__file__ not in said


def test_an_exception_that_was_not_raised_itself_is_shown_by_its_cause(model: Any) -> None:
    carrier = RuntimeError("SystemExit: bye")
    carrier.__cause__ = raised(model.deep, 0)
    assert FailurePlaces().of(carrier).endswith("KeyError: 'state'")


@pytest.mark.parametrize("name", ["endless", "large", "broken"])
def test_whatever_it_is_what_is_said_is_short(model: Any, name: str) -> None:
    error = raised(getattr(model, name))
    assert 0 < len(FailurePlaces().of(error)) < 8300


def test_of_a_model_that_fails_everywhere_few_tracebacks_are_shown(model: Any) -> None:
    places = FailurePlaces()
    shown = [is_first(places.of(raised(model.fails, number))) for number in range(100)]
    assert shown == [True] * 64 + [False] * 36
