"""gRPC's health service, `grpc.health.v1.Health/Check`, as Kubernetes' gRPC probes and load balancers ask for it.

Its messages are those of `google.protobuf.wrappers` on the wire: a string, and a number. `Watch` is not served: clients
of gRPC that ask for it take the server for healthy then.
"""

from __future__ import annotations

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

HEALTH = "grpc.health.v1.Health"
HealthRequest = StringValue
SERVING, NOT_SERVING = Int32Value(value=1), Int32Value(value=2)
