"""The server: life cycle, event pump, and what a request passes on its way in and out."""

from inferential.server.inprocess import InProcessConnection
from inferential.server.server import Server

__all__ = ["InProcessConnection", "Server"]
