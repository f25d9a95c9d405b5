"""ZMTP 3.1, ZeroMQ's protocol, over plain sockets of ours: `protocol` is its mind, `stream` a socket that speaks it.

Peers are anybody's: libzmq in Python, C++ or Rust on one end or the other does not see a difference. What is spoken
here is what robots and servers need of it: DEALER to ROUTER, the NULL mechanism, heartbeats answered.

Why not libzmq itself: its sockets hand every message to a thread of their own and back, on both ends, which is most of
what a small message takes. Read and written by whoever waits for it, the same message takes a fraction of that
(docs/performance.md has the figures).
"""

from inferential.zmtp.protocol import ConnectionEnded, ProtocolError
from inferential.zmtp.stream import Stream

__all__ = ["ConnectionEnded", "ProtocolError", "Stream"]
