"""The socket that robots connect to, its address and its messages."""

from inferential.transport.messages import IncomingObservation, OutgoingResponse
from inferential.transport.zmq_transport import MalformedMessage, ZmqTransport

__all__ = ["IncomingObservation", "MalformedMessage", "OutgoingResponse", "ZmqTransport"]
