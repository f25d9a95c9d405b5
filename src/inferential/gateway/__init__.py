"""Gateways: robots with other clients' protocols, served through the same scheduler, policies and metrics.

`LeRobotGateway` is in `inferential.gateway.lerobot`, which needs the extra `lerobot`.
"""

from inferential.gateway.act import ActGateway
from inferential.gateway.base import Gateway, GatewayClient
from inferential.gateway.gr00t import Gr00tGateway
from inferential.gateway.openpi import OpenPiGateway

__all__ = ["ActGateway", "Gateway", "GatewayClient", "Gr00tGateway", "OpenPiGateway"]
