"""What a client may do and expect: the operator's word outranks the client's, and that the defaults."""

from __future__ import annotations

from typing import Any

import pytest

from inferential.config import ClientsConfig
from inferential.config.client_policy import ClientPolicies

KNOWN = [
    {"id": "arm", "model": "policy", "latency_budget_ms": 20.0, "priority": 0},
    {"id": "arm", "model": "other", "priority": 4},
    {"id": "leg", "model": "policy", "latency_budget_ms": 30.0},
]

CLASSES = {"slow": {"latency_budget_ms": 200.0}, "first": {"priority": 2}}


def policies(**fields: Any) -> ClientPolicies:
    return ClientPolicies(ClientsConfig(**{"known": KNOWN, **fields}))


@pytest.mark.parametrize(
    ("client", "kind", "model", "given", "budget"),
    [
        ("arm", "", "policy", 99.0, 20.0),
        ("arm", "slow", "policy", None, 20.0),
        ("arm", "", "other", 99.0, 99.0),
        ("arm", "", "other", None, None),
        ("arm", "slow", "other", 99.0, 200.0),
        ("arm", "first", "third", None, None),
        ("unknown", "", "policy", 99.0, 99.0),
        ("unknown", "", "policy", None, None),
        ("unknown", "slow", "policy", 99.0, 200.0),
        ("unknown", "slow", "policy", None, 200.0),
        ("unknown", "first", "policy", 99.0, 99.0),
    ],
)
def test_whose_latency_budget_holds(
    client: str, kind: str, model: str, given: float | None, budget: float | None
) -> None:
    assert policies(classes=CLASSES).explicit_budget_ms(client, kind, model, given) == budget


@pytest.mark.parametrize(
    ("client", "kind", "model", "priority"),
    [
        ("arm", "first", "policy", 0),
        ("arm", "first", "other", 4),
        ("leg", "", "policy", None),
        ("leg", "first", "policy", 2),
        ("unknown", "slow", "policy", None),
        ("unknown", "first", "policy", 2),
    ],
)
def test_the_operators_word_on_a_priority_holds_where_there_is_one(
    client: str, kind: str, model: str, priority: int | None
) -> None:
    assert policies(classes=CLASSES).fixed_priority(client, kind, model) == priority


def test_the_default_priority_is_that_of_the_configuration() -> None:
    assert policies(defaults={"priority": 3}).default_priority == 3


def test_the_default_budget_is_that_of_the_configuration() -> None:
    assert policies(defaults={"latency_budget_ms": 12.0}).default_budget_ms == 12.0


def test_unknown_clients_are_accepted_by_default() -> None:
    assert policies().accepts("unknown")
    closed = policies(accept_unknown=False)
    assert not closed.accepts("unknown")
    assert closed.accepts("arm")
    assert not ClientPolicies(ClientsConfig(accept_unknown=False)).accepts("")


def test_a_known_client_is_accepted_for_models_that_it_is_not_known_for() -> None:
    closed = policies(accept_unknown=False)
    assert closed.accepts("leg")
    assert closed.fixed_priority("leg", "", "other") is None
