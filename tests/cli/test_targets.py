"""From `module:object` to a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from inferential import LocalDispatcher
from inferential.cli.errors import CliError
from inferential.cli.targets import load_model, load_models


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
        ("policies:NeedsPath", r"calling it to make the model failed: TypeError: .*missing 1 required .* 'path'$"),
        ("policies:raises", r"failed: RuntimeError: no weights at all \(.*policies\.py:\d+\)"),
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
