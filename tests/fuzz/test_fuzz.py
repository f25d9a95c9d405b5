"""A short run of `python -m fuzz`, the same each time; the long one finds what is new."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzz import listening
from fuzz.inputs import mutated, seeds
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, given, settings

EXAMPLES = {"zmtp_reader": 250, "zmtp_handshake": 120, "http_page": 10, "http_openpi": 10}


@pytest.fixture(scope="module", autouse=True)
def ended() -> Iterator[None]:
    """Ends the server that some targets start."""
    yield
    listening.close()


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_is_read_as_it_should_be(target: str) -> None:
    assert seeds(target)
    for data in seeds(target):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_near_those_of_the_corpus_are_read_as_they_should_be(target: str) -> None:
    @settings(
        max_examples=EXAMPLES.get(target, 400),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutated(target))
    def check(data: bytes) -> None:
        TARGETS[target](data)

    check()
