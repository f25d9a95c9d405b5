"""Gateways: robots with other clients' protocols, served through the same scheduler, policies and metrics."""

from inferential.gateway.base import Gateway, GatewayClient
from inferential.gateway.gr00t import Gr00tGateway
from inferential.gateway.openpi import OpenPiGateway

__all__ = ["Gateway", "GatewayClient", "Gr00tGateway", "OpenPiGateway"]
