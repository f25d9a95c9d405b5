"""What is the same in every message of a robot, written and read once.

Most of an observation or a response repeats: the client, the model, what its tensors are. Each of the three modules
is a cache in front of a slow path that gives the same, with a test that both agree, and counts hits and misses:

- `templates`: a robot writes observations;
- `envelopes`: a server reads observations;
- `response_reader`: a robot reads responses.

Concatenated protobuf messages are one message (proto3: the last value of a field wins, repeated fields append). So an
envelope can be written as a constant part, serialized once, and the serialization of what is new.
"""

from inferential.proto.cache.counts import CacheCounts

__all__ = ["CacheCounts"]
