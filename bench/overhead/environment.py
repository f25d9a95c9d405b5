"""The peers, and the environments they need under .venv/peers, each made once."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.environments import made


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer.

    Attributes:
        title: as it is shown.
        requirements: of an environment of its own; none: it runs in ours.
        needs: a package that ours must have.
    """

    title: str
    requirements: tuple[str, ...] = ()
    needs: str | None = None
    environment: str = ""

    def python(self) -> Path:
        """The interpreter that runs it.

        Raises:
            RuntimeError: what it needs is not there and cannot be installed.
        """
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            raise RuntimeError(f"{self.needs} is not installed")
        if not self.requirements:
            return Path(sys.executable)
        return made(self.environment, *self.requirements)


PEERS = {
    "raw": Peer("raw ZeroMQ"),
    "raw:process": Peer("raw ZeroMQ, through a process"),
    "ours": Peer("Inferential"),
    "ours:function_inline": Peer("Inferential, function inline"),
    "ours:function_thread": Peer("Inferential, function in a thread"),
    "ours:function_process": Peer("Inferential, function in a process"),
    "ours:batch_thread": Peer("Inferential, infer_batch in a thread"),
    "ours:batch_process": Peer("Inferential, infer_batch in a process"),
    "inferential_1_4": Peer("Inferential 1.4.0", ("inferential==1.4.0",), environment="inferential-1.4.0"),
    "inferential_1_4:function": Peer(
        "Inferential 1.4.0, function", ("inferential==1.4.0",), environment="inferential-1.4.0"
    ),
    "openpi": Peer(
        "openpi-server",
        ("openpi-server==0.1.0", "openpi-client==0.1.2", "typing_extensions"),
        environment="openpi-server-0.1.0",
    ),
    "litserve": Peer("LitServe", ("litserve==0.2.19", "numpy"), environment="litserve-0.2.19"),
    "grpc_echo": Peer("gRPC unary", needs="grpc"),
    "ray_http": Peer("Ray Serve HTTP", needs="ray"),
}
PLAIN = (
    "raw",
    "raw:process",
    "ours:function_process",
    "ours:batch_process",
    "ours:function_thread",
    "ours:batch_thread",
    "ours:function_inline",
    "inferential_1_4:function",
    "openpi",
    "litserve",
)
"""Peers of which each has a policy as people write it: a function, or a class with `infer_batch`."""
