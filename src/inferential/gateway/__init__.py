"""Robots that speak other protocols, on the same path as everyone: scheduler, rights and metrics are the server's."""

from inferential.gateway.base import Gateway
from inferential.gateway.gr00t import Gr00tGateway
from inferential.gateway.openpi import OpenPiGateway

__all__ = ["Gateway", "Gr00tGateway", "OpenPiGateway"]
