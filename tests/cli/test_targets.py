"""From `module:object` to a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from inferential import LocalDispatcher
from inferential.cli.errors import CliError
from inferential.cli.targets import load_model, load_models
from inferential.config.schema import ModelConfig
from inferential.proto.msgpack_numpy import pack


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("policies:echo", "function"),
        ("policies:act", "function"),
        ("policies:takes_any", "function"),
        ("policies:doubler", "Doubler"),
        ("policies:Doubler", "Doubler"),
        ("policies:Batcher", "Batcher"),
        ("policies:Callable", "Callable"),
        ("policies:Holder.instance", "Doubler"),
        ("policies:Holder.Inner", "Doubler"),
        ("policies:make", "Doubler"),
        ("policies:make_with_options", "Doubler"),
        ("policies:largest", "builtin_function_or_method"),
        ("json:loads", "function"),
    ],
)
def test_a_target_is_a_model_or_makes_one(place: Path, target: str, kind: str) -> None:
    model = load_model("arm", target)
    assert type(model).__name__ == kind
    LocalDispatcher({"arm": model})


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("polices:echo", r"no module 'polices', neither installed nor in /.*"),
        ("policies.sub:echo", r"no module 'policies\.sub', neither"),
        ("policies:ecco", r"policies has no 'ecco'; did you mean 'echo'\?"),
        ("policies:Holder.qqq", r"policies\.Holder has no 'qqq'$"),
        ("policies:number", r"expected a model \(.*\), or a class or a function without parameters .*, got int"),
        ("policies:makes_none", r"expected a model .*, got NoneType"),
        ("policies:make_async", r"must not be async"),
        (
            "policies:NeedsPath",
            r"to make the model failed: TypeError: .*missing 1 required .* 'path'; arguments stand in a "
            r"configuration file, as args of the model$",
        ),
        ("policies:raises", r"failed \(it has .*\): RuntimeError: no weights at all \(.*policies\.py:\d+\)"),
        ("broken:x", r"importing it failed: ZeroDivisionError: division by zero \(.*broken\.py:2\)"),
        ("wrong:x", r"importing it failed: SyntaxError: .* \(.*wrong\.py:1\)"),
        ("needs:x", r"importing it failed: ModuleNotFoundError: No module named 'no_such_package' \(.*needs\.py:1\)"),
    ],
)
def test_what_is_no_model_is_an_error_with_model_target_and_place(place: Path, target: str, error: str) -> None:
    (place / "broken.py").write_text("\n1 / 0\n")
    (place / "wrong.py").write_text("def\n")
    (place / "needs.py").write_text("import no_such_package\n")
    with pytest.raises(CliError) as caught:
        load_models({"arm": target})
    assert str(caught.value).startswith(f"model 'arm', target '{target}': ")
    assert re.search(error, str(caught.value))
    assert "\n" not in str(caught.value)


def test_modules_of_the_current_directory_are_found(place: Path, run_apart: Any) -> None:
    (place / "f.yaml").write_text("models: {known: {arm: {target: 'policies:echo'}}}")
    assert run_apart("check", "--import", "f.yaml").code == 0


@pytest.mark.parametrize("field", ["timeout_ms", "api_key"])
def test_settings_of_policy_servers_are_for_those_alone(place: Path, field: str) -> None:
    settings = ModelConfig.model_validate({field: {"timeout_ms": 90_000, "api_key": "k"}[field]})
    with pytest.raises(CliError, match=rf"models\.known\.arm\.{field} is for openpi:// targets only"):
        load_models({"arm": "policies:echo"}, {"arm": settings})


async def test_time_out_and_key_of_a_policy_server_come_from_its_settings() -> None:
    shown: list[str | None] = []

    async def robot(websocket: ServerConnection) -> None:
        assert websocket.request is not None
        shown.append(websocket.request.headers.get("Authorization"))
        await websocket.send(pack({}))
        await websocket.wait_closed()  # no answer

    async with serve(robot, "127.0.0.1", 0) as server:
        target = f"openpi://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        model = load_model("pi0", target, ModelConfig.model_validate({"api_key": "k-1", "timeout_ms": 50.0}))
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.05 s"):
            await model.infer({})
    assert shown == ["Api-Key k-1"]
