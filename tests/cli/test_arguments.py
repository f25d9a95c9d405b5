from __future__ import annotations

import pytest

from inferential.cli.arguments import in_order


@pytest.mark.parametrize("address", ["localhost:5555", "tcp://10.0.0.5:5555", "ipc:///tmp/robots", "[::1]:5555"])
def test_a_name_and_an_address_are_taken_in_either_order(address: str) -> None:
    assert in_order("arm-03", address) == ("arm-03", address)
    assert in_order(address, "arm-03") == ("arm-03", address)


@pytest.mark.parametrize("pair", [("arm", "localhost"), ("7", "8080"), ("a:1", "b:2"), ("a:b", "localhost")])
def test_where_it_cannot_be_seen_they_stay_as_they_are(pair: tuple[str, str]) -> None:
    assert in_order(*pair) == pair
