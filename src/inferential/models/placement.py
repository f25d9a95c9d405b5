"""Which replica has the state of a robot. No I/O and no clock."""

from __future__ import annotations

from collections.abc import Sequence

SEPARATOR = "%"
"""Between a pool and the name of one of its replicas, in the id of the pool that this replica alone is."""


class Placement:
    """The robots of models that keep state, each on one replica."""

    def __init__(self) -> None:
        self._replicas: dict[tuple[str, str], str] = {}  # by pool and robot
        self._homes: dict[tuple[str, str], str] = {}  # the pool that has a robot's state, by model and robot
        self._used: dict[str, set[str]] = {}  # names of the replicas of a pool that robots were placed on

    def __len__(self) -> int:
        return len(self._replicas)

    def place(self, pool: str, client_id: str, up: Sequence[str]) -> str:
        """Returns the id of the pool that is the replica with a robot's state; a new robot goes where fewest are.

        Args:
            pool: of the model's version.
            client_id: the robot.
            up: names of the replicas that take calls, at least one.
        """
        key = pool, client_id
        replica = self._replicas.get(key)
        if replica is None or replica not in up:
            counts = dict.fromkeys(up, 0)
            for (other, _), one in self._replicas.items():
                if other == pool and one in counts:
                    counts[one] += 1
            replica = self._replicas[key] = min(up, key=counts.__getitem__)
            self._used.setdefault(pool, set()).add(replica)
        return part_of(pool, replica)

    def part(self, pool: str, client_id: str) -> str | None:
        """Returns the id of the pool that is the replica with a robot's state; None: none has it."""
        replica = self._replicas.get((pool, client_id))
        return None if replica is None else part_of(pool, replica)

    def knows(self, pool: str, client_id: str) -> bool:
        """Returns whether a replica of a pool has the state of a robot."""
        return (pool, client_id) in self._replicas

    def moved(self, model_id: str, client_id: str, pool: str | None) -> str | None:
        """Notes which pool answers a robot for a model; returns the id of the replica that had its state before.

        Args:
            model_id: the model that the robot asks.
            client_id: the robot.
            pool: where its state is from now on; None: nowhere, as what answers keeps none.
        """
        key = model_id, client_id
        former = self._homes.get(key)
        if former == pool:
            return None
        if pool is None:
            self._homes.pop(key, None)
        else:
            self._homes[key] = pool
        replica = None if former is None else self._replicas.pop((former, client_id), None)
        return None if former is None or replica is None else part_of(former, replica)

    def parts(self, pool: str) -> list[str]:
        """Returns the ids of the pools that robots of a pool were placed on, whether or not any is there still."""
        return [part_of(pool, name) for name in sorted(self._used.get(pool, ()))]

    def forget_part(self, part: str) -> None:
        """Forgets a replica that is gone, by the id of its pool."""
        pool, _, name = part.rpartition(SEPARATOR)
        self._used.get(pool, set()).discard(name)

    def forget_client(self, client_id: str) -> None:
        """Forgets a robot that is gone."""
        for table in (self._replicas, self._homes):
            for key in [key for key in table if key[1] == client_id]:
                del table[key]

    def forget_pool(self, pool: str) -> None:
        """Forgets a pool that has ended."""
        self._used.pop(pool, None)
        for key in [key for key in self._replicas if key[0] == pool]:
            del self._replicas[key]
        self._homes = {key: home for key, home in self._homes.items() if home != pool}


def part_of(pool: str, replica: str) -> str:
    """Returns the id of the pool that one replica of a pool is."""
    return f"{pool}{SEPARATOR}{replica or '0'}"


def whole(pool: str) -> str:
    """Returns the pool that a replica's pool is a part of."""
    base, separator, _ = pool.rpartition(SEPARATOR)
    return base if separator else pool
