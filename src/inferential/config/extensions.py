"""Finds gateways, backends and services by name: those of this package, and what other packages add by entry points.

Nothing is imported before it is asked for. (Scheduling strategies have the same: `scheduler.base`.)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inferential.errors import InferentialError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GATEWAYS = "inferential.gateways"
"""Group of entry points: `gateway.Gateway` classes by the name of their section, `gateways.NAME`."""
BACKENDS = "inferential.backends"
"""Group of entry points: what makes a model from a target `NAME://...`."""
SERVICES = "inferential.services"
"""Group of entry points: what else runs beside a server, by the name of its section. Only this package has such."""

# Not entry points, which a checkout of the sources that is not installed anew would lack.
_OWN = {
    GATEWAYS: {
        "openpi": "inferential.gateway.openpi:OpenPiGateway",
        "gr00t": "inferential.gateway.gr00t:Gr00tGateway",
        "lerobot": "inferential.gateway.lerobot:LeRobotGateway",
        "act": "inferential.gateway.act:ActGateway",
        "kserve": "inferential.gateway.kserve:KServeGateway",
        "kserve_grpc": "inferential.gateway.kserve.rpc:KServeGrpcGateway",
    },
    BACKENDS: {
        "openpi": "inferential.cli.targets:open_policy_server",
        "openpi+wss": "inferential.cli.targets:open_policy_server",
        "kserve": "inferential.cli.targets:open_kserve",
        "kserve+https": "inferential.cli.targets:open_kserve",
    },
    SERVICES: {
        "recording": "inferential.recording.recorder:Recorder",
        "foxglove": "inferential.recording.live:FoxgloveServer",
        "alerts": "inferential.telemetry.alerts:Alerts",
        "otlp": "inferential.telemetry.otlp:Telemetry",
        "http": "inferential.web.http:HttpServer",
    },
}


class ExtensionError(InferentialError, ValueError):
    """What an installed package offers cannot be used."""


def extension_names(group: str) -> list[str]:
    """Returns the names in a group, sorted; imports none of them."""
    return sorted({*_OWN[group], *_installed(group).names})


def load_extension(group: str, name: str) -> Any:
    """Imports and returns what has that name in a group; names of this package come first.

    Raises:
        KeyError: nothing has that name.
        ExtensionError: it is another package's, and importing it failed.
        ModuleNotFoundError: it is this package's, and needs one that is not installed.
    """
    own = _OWN[group].get(name)
    if own is not None:
        module, _, attribute = own.partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in _installed(group).select(name=name):
        try:
            return entry.load()
        except Exception as error:  # another package's code
            package = "another package" if entry.dist is None else entry.dist.name
            raise ExtensionError(
                f"{entry.value} of {package}, entry point {name!r} of {group}, cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
    raise KeyError(name)


def _installed(group: str) -> EntryPoints:
    from importlib.metadata import entry_points  # here: reading all packages' metadata takes milliseconds

    return entry_points(group=group)
