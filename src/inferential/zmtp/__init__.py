"""ZMTP 3.1, ZeroMQ's protocol, over plain sockets: `protocol` is its sans-I/O state, `stream` a socket that uses it.

It interoperates with libzmq in Python, C++ or Rust on either end. It implements what robots and servers need: DEALER to
ROUTER, the NULL mechanism, and answers to heartbeats.

Why not libzmq itself: its sockets pass every message to an I/O thread and back, on both ends, which is most of what a
small message takes. Read and written by the thread that waits for it, the same message takes a fraction of that
(docs/performance.md has the figures).
"""

from inferential.zmtp.protocol import ConnectionEnded, ProtocolError
from inferential.zmtp.stream import Stream

__all__ = ["ConnectionEnded", "ProtocolError", "Stream"]
