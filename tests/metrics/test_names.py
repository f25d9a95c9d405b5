"""Declarations of metrics."""

from __future__ import annotations

import copy
import pickle

import pytest

from inferential.metrics.names import METRICS, declare


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_pickled_and_copied_as_its_name(name: str) -> None:
    metric = METRICS[name]
    for made in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        assert made == name
        assert type(made) is str


def test_a_name_is_declared_once() -> None:
    with pytest.raises(ValueError, match="declared already"):
        declare(next(iter(METRICS)), "1", (), "again")
