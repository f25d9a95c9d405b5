"""The Open Inference Protocol, KServe's v2 and Triton's: over HTTP and gRPC, one inference behind both."""

from inferential.gateway.kserve.http import KServeGateway

__all__ = ["KServeGateway"]
