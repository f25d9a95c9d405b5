"""Which payloads are noted as large as they are lent to a worker."""

from __future__ import annotations

import pytest

from inferential.replica.lending import Lending
from inferential.replica.pace import LARGE_BYTES, SHORT_S, Pace


@pytest.mark.parametrize(("size", "shares"), [(64, True), (LARGE_BYTES, True), (LARGE_BYTES + 1, False)])
def test_a_model_with_large_observations_has_them_handed_over_alone(size: int, shares: bool) -> None:
    pace = Pace()
    lending = Lending(None, None, pace)
    for _ in range(5):
        assert lending.lend(bytes(size)) is None
        pace.note(SHORT_S / 2)
    assert pace.quick
    assert pace.shares is shares
