"""What Ray Serve runs, and which deployment a model id means.

It only reads. `details` asks Serve's controller and blocks; the rest are functions of what it gave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inferential.errors import InferentialError

if TYPE_CHECKING:
    from inferential.replica.registry import Listed


class AmbiguousModel(InferentialError, LookupError):
    """A deployment's name that more than one application has."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment, as Serve has it now.

    Attributes:
        app, name: its names.
        is_ingress: whether it is its application's.
        replicas: names of the running ones.
        max_ongoing_requests: what Serve lets a replica have at once.
    """

    app: str
    name: str
    is_ingress: bool
    replicas: tuple[str, ...]
    max_ongoing_requests: int

    @property
    def path(self) -> str:
        """`app/deployment`."""
        return f"{self.app}/{self.name}"


def details() -> list[Deployment]:
    """All deployments; none where Serve does not run. Blocks for some milliseconds; Ray must be connected.

    Raises:
        RayActorError: Serve was shut down, or its controller is being restarted; ask again.
    """
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client, _set_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return []
    try:
        listed: dict[str, Any] = client.get_serve_details()
    except ray.exceptions.RayActorError:
        # Ray keeps it for good, and a Serve that is begun again elsewhere has another one.
        _set_global_client(None)  # type: ignore[no-untyped-call]
        raise
    found = []
    for app, about in listed.get("applications", {}).items():
        ingress = (about.get("deployment_topology") or {}).get("ingress_deployment")
        if ingress is None and about.get("deployments") and about.get("status") != "DELETING":
            ingress = serve.get_app_handle(app).deployment_name  # an older Ray: a question more for each
        for name, deployment in about.get("deployments", {}).items():
            running = tuple(
                sorted(str(one["replica_id"]) for one in deployment.get("replicas", ()) if one["state"] == "RUNNING")
            )
            config = deployment.get("deployment_config", {})
            found.append(Deployment(app, name, name == ingress, running, int(config.get("max_ongoing_requests") or 1)))
    return found


def resolve(model_id: str, deployments: Iterable[Deployment]) -> Deployment | None:
    """The deployment that a model id means: an application's ingress, `app/deployment`, or a name that only one has.

    Returns:
        None where there is none yet.

    Raises:
        AmbiguousModel: naming the candidates.
    """
    deployments = list(deployments)
    for found in (
        [one for one in deployments if one.app == model_id and one.is_ingress],
        [one for one in deployments if one.path == model_id],
        [one for one in deployments if one.name == model_id],
    ):
        if len(found) > 1:
            paths = ", ".join(sorted(one.path for one in found))
            raise AmbiguousModel(f"{model_id!r} is a deployment of several applications: name one of {paths}")
        if found:
            return found[0]
    return None


def model_ids(deployments: Iterable[Deployment]) -> list[str]:
    """Everything that `resolve` finds."""
    deployments = list(deployments)
    names = [one.name for one in deployments]
    ids = {one.app for one in deployments if one.is_ingress} | {one.path for one in deployments}
    return sorted(ids | {name for name in names if names.count(name) == 1})


def called_by_endpoint(
    listed: Iterable[Listed],
    up: AbstractSet[str],
    deployments: Iterable[Deployment],
    former: Collection[tuple[str, str]],
) -> dict[tuple[str, str], list[str]]:
    """The replicas with endpoints of each deployment, by application and name, that is called by them.

    One that has been called by its handle so far is only once an endpoint is connected: at no moment by neither.

    Args:
        listed: all endpoints.
        up: the replicas whose endpoints are connected.
        deployments: what Serve runs.
        former: what was called by its endpoints before.
    """
    named: dict[tuple[str, str], list[str]] = {}
    for one in listed:
        named.setdefault((one.app, one.deployment), []).append(one.replica)
    by_handle = {(one.app, one.name) for one in deployments if one.replicas}.difference(former)
    return {path: names for path, names in named.items() if path not in by_handle or not up.isdisjoint(names)}
