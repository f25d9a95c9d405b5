"""Looks for clients that have fallen silent, and computes the fair shares of the others, some clients with each step.

A fleet of a thousand takes milliseconds, in which no robot would be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from inferential.server.accounting import Accounting
from inferential.server.egress import Egress


def sweep(
    accounting: Accounting, egress: Egress, let_go: Callable[[Sequence[str], float], None], now: float
) -> Iterator[None]:
    """Finds clients that are overdue or gone, and updates the shares if they are due, a part with each step.

    Args:
        accounting: whose clients they are.
        egress: knows which connections stand, and says which clients are gone.
        let_go: ends what is left of clients that are gone; called with their ids and `now`.
        now: seconds of `time.monotonic()`.
    """
    for changes in accounting.sweep_steps(now, egress.reaches, egress.has_unread):
        for client_id in changes.gone:
            egress.say_gone(client_id, changes.identities[client_id])
        if changes.gone:
            let_go(changes.gone, now)
            accounting.disconnected(changes.gone)
        yield
    yield from accounting.share_steps(now, egress.has_unread)
