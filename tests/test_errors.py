"""The errors that a client can see."""

from __future__ import annotations

import ast
import builtins
import copy
import pickle
from pathlib import Path

import pytest

import inferential
from inferential import errors
from inferential.errors import InferenceError, words_of

KINDS = [
    errors.RequestRejected,
    errors.RequestExpired,
    errors.RequestSuperseded,
    errors.UnknownModel,
    errors.InvalidObservation,
    errors.ModelFailed,
]


@pytest.mark.parametrize("kind", [InferenceError, *KINDS])
def test_an_error_carries_and_names_the_request_the_model_and_the_reason(kind: type[InferenceError]) -> None:
    error = kind("queue full", request_id=7, model_id="policy")
    assert isinstance(error, InferenceError)
    assert (error.request_id, error.model_id, error.reason) == (7, "policy", "queue full")
    assert str(error) == "policy: queue full (request 7)"


def test_what_is_not_known_is_left_out_of_the_text() -> None:
    error = InferenceError("lost")
    assert (error.request_id, error.model_id, error.cause) == (0, "", "")
    assert str(error) == "request: lost"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_a_copy_and_a_trip_between_processes(kind: type[InferenceError]) -> None:
    error = kind("why", request_id=7, model_id="policy", cause="draining")
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is kind
        assert (other.request_id, other.model_id, other.reason, str(other)) == (7, "policy", "why", str(error))
        assert other.cause == "draining"


def test_a_text_of_an_error_that_was_completed_later_is_complete() -> None:
    error = errors.RequestRejected("away")
    error.request_id, error.model_id = 7, "policy"
    assert str(error) == "policy: away (request 7)"


def test_every_error_of_the_package_has_one_base_class() -> None:
    package = Path(errors.__file__).parent
    standard = {name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    standard.remove("AssertionError")  # a fault of the program itself
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name != "InferentialError":
                bases = [ast.unparse(base) for base in node.bases]
                assert not standard & set(bases) or "InferentialError" in bases, f"{path}: {node.name}"


@pytest.mark.parametrize("name", ["InferenceError", "ObservationError", "QueueFullError"])
def test_the_errors_are_offered_at_top_level(name: str) -> None:
    assert issubclass(getattr(inferential, name), inferential.InferentialError)


def test_no_error_is_another_kinds() -> None:
    for kind in KINDS:
        assert [other for other in KINDS if issubclass(kind, other)] == [kind]


def test_words_of_what_was_raised_are_short_whatever_it_says() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise SystemExit

    assert words_of(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert words_of(ValueError("x" * 3000)).endswith("x... (3012 characters)")
    assert words_of(Broken()) == "Broken: its message cannot be read: SystemExit"
