"""What a model id means among what Serve runs."""

from __future__ import annotations

import pytest

from inferential.dispatch.ray.deployments import AmbiguousModel, Deployment, details, model_ids, resolve

POLICY = Deployment("arm", "Policy", True, ("a1",), 5)
CAMERA = Deployment("arm", "Camera", False, ("b1",), 5)
OTHER = Deployment("leg", "Policy", True, (), 5)
ALL = [POLICY, CAMERA, OTHER]


@pytest.mark.parametrize(
    ("model_id", "expected"),
    [("arm", POLICY), ("leg", OTHER), ("arm/Camera", CAMERA), ("Camera", CAMERA), ("leg/Policy", OTHER), ("x", None)],
)
def test_an_id_is_an_application_a_path_or_a_unique_name(model_id: str, expected: Deployment | None) -> None:
    assert resolve(model_id, ALL) is expected


def test_a_name_that_two_applications_have_names_the_candidates() -> None:
    with pytest.raises(AmbiguousModel, match=r"arm/Policy, leg/Policy"):
        resolve("Policy", ALL)


def test_an_application_comes_before_a_deployment_of_its_name() -> None:
    named_alike = Deployment("other", "arm", False, (), 5)
    assert resolve("arm", [named_alike, *ALL]) is POLICY


def test_all_that_can_be_asked_for_is_listed() -> None:
    assert model_ids(ALL) == ["Camera", "arm", "arm/Camera", "arm/Policy", "leg", "leg/Policy"]
    assert all(resolve(model_id, ALL) is not None for model_id in model_ids(ALL))


def test_a_serve_that_was_shut_down_is_forgotten_so_that_the_next_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    class Client:
        def get_serve_details(self) -> None:
            raise ray.exceptions.RayActorError

    known: list[object] = [Client()]
    monkeypatch.setattr("ray.serve.context._get_global_client", lambda **options: known[-1])
    monkeypatch.setattr("ray.serve.context._set_global_client", known.append)
    with pytest.raises(ray.exceptions.RayActorError):
        details()
    assert details() == []
