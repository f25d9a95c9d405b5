"""Gateways: robots with other clients' protocols, served through the same scheduler, policies and metrics.

`LeRobotGateway` is in `inferential.gateway.lerobot`, which needs the extra `lerobot`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inferential.gateway.act import ActGateway
    from inferential.gateway.base import Gateway, GatewayClient
    from inferential.gateway.gr00t import Gr00tGateway
    from inferential.gateway.openpi import OpenPiGateway

__all__ = ["ActGateway", "Gateway", "GatewayClient", "Gr00tGateway", "OpenPiGateway"]

_MODULES = {
    "ActGateway": "act",
    "Gateway": "base",
    "GatewayClient": "base",
    "Gr00tGateway": "gr00t",
    "OpenPiGateway": "openpi",
}


def __getattr__(name: str) -> Any:
    # When it is asked for: the process of `aside` needs none of them.
    if name not in _MODULES:
        raise AttributeError(f"module 'inferential.gateway' has no attribute {name!r}")
    return getattr(importlib.import_module(f"inferential.gateway.{_MODULES[name]}"), name)
