"""The actor that knows all replicas' endpoints, and hands out the key that opens them.

There is one in a cluster. It carries no observation: replicas register when they start, and servers learn of each
change as it comes. Replicas register again every few seconds, so that a registry which Ray restarted fills by itself.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import ray
import zmq

from inferential.replica.endpoint import Addresses

NAME, NAMESPACE = "inferential-registry", "inferential"
REGISTER_EVERY_S = 2.0
_FORGET_AFTER_S = 4 * REGISTER_EVERY_S
_WATCH_S = 30.0  # an answer without news, so that a server which is gone is not waited for


@dataclass(frozen=True, slots=True)
class Listed:
    """One replica's endpoint.

    Attributes:
        app, deployment, replica: whose, by Ray Serve's names.
        node: id of the Ray node that it is on.
        addresses: where it listens.
    """

    app: str
    deployment: str
    replica: str
    node: str
    addresses: Addresses


class Registry:
    """What the actor does; every method runs on its event loop."""

    def __init__(self) -> None:
        public, secret = zmq.curve_keypair()
        self._keys = public.decode(), secret.decode()
        self._listed: dict[str, Listed] = {}
        self._seen: dict[str, float] = {}
        self._version = time.time_ns()  # none that another registry, which Ray restarted, has had
        self._changed = asyncio.Event()

    async def register(self, listed: Listed) -> str:
        """A replica is there; returns the public key that may call it."""
        self._seen[listed.replica] = time.monotonic()
        if self._listed.get(listed.replica) != listed:
            self._listed[listed.replica] = listed
            self._note_change()
        return self._keys[0]

    async def remove(self, replica: str) -> None:
        """A replica is gone, as it says itself."""
        self._seen.pop(replica, None)
        if self._listed.pop(replica, None) is not None:
            self._note_change()

    async def keys(self) -> tuple[str, str]:
        """The public and secret key that open the endpoints."""
        return self._keys

    async def watch(self, known: int) -> tuple[str, int, list[Listed]]:
        """The endpoints, as soon as they are others than those of version `known`; -1 to have them at once.

        Returns:
            The public key, which is another one after a restart; the version; the endpoints.
        """
        deadline = time.monotonic() + _WATCH_S
        self._forget()
        while self._version == known and (left := deadline - time.monotonic()) > 0:
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), min(left, REGISTER_EVERY_S))
            except TimeoutError:
                self._forget()
        return self._keys[0], self._version, list(self._listed.values())

    def _forget(self) -> None:
        """Those that were killed do not say so."""
        oldest = time.monotonic() - _FORGET_AFTER_S
        for replica in [replica for replica in self._listed if self._seen[replica] < oldest]:
            del self._listed[replica], self._seen[replica]
            self._note_change()

    def _note_change(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()


def registry() -> Any:
    """A handle of the cluster's registry, which is made where there is none; Ray must be connected."""
    return (
        ray.remote(Registry)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=10_000,  # a watch of each server
        )
        .remote()
    )
