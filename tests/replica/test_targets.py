"""What a target leads to, with and without arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferential.replica.targets import TargetError, load_target

MODULE = """
class Policy:
    def __init__(self, gain=1.0):
        self.gain = gain
    def infer(self, observation):
        return self.gain

def make(gain):
    return Policy(gain)

def policy(observation):
    return 0.0

def makes_class(gain):
    return Empty

class Empty: ...

def breaks():
    raise RuntimeError("no weights")
model = Policy()
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"targets_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_class_and_a_factory_are_called_with_args(module: str) -> None:
    for name in ("Policy", "make"):
        assert load_target(f"{module}:{name}", {"gain": 2.0}).infer(None) == 2.0


def test_a_model_is_taken_as_it_is(module: str) -> None:
    assert load_target(f"{module}:policy", {})(None) == 0.0
    assert load_target(f"{module}:model", {}).gain == 1.0


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("nowhere:x", "no module 'nowhere'"),
        ("{module}:Polcy", "has no 'Polcy'; did you mean 'Policy'"),
        ("{module}:qqqqqq", "has no 'qqqqqq'; it has Policy, "),
        (
            "{module}:breaks",
            r"failed \(it has no parameter for an observation\): RuntimeError: no weights",
        ),
    ],
)
def test_a_target_that_leads_nowhere_says_why(target: str, text: str, module: str) -> None:
    with pytest.raises(TargetError, match=text):
        load_target(target.format(module=module), {})


def test_a_module_or_a_maker_that_means_to_end_its_process_says_so_as_any_failure(tmp_path: Path) -> None:
    (tmp_path / "targets_that_exit.py").write_text("import sys\nsys.exit('no GPU')\n")
    (tmp_path / "targets_whose_maker_exits.py").write_text("import sys\ndef make():\n    sys.exit(3)\n")
    with pytest.raises(TargetError, match=r"importing it failed: SystemExit: no GPU \(.*targets_that_exit.py:2\)"):
        load_target("targets_that_exit:x", {})
    with pytest.raises(TargetError, match=r"calling it to make the model failed.*: SystemExit: 3 \("):
        load_target("targets_whose_maker_exits:make", {})


def test_a_module_of_a_package_that_is_named_alone_and_a_class_that_is_returned_are_said(
    module: str, tmp_path: Path
) -> None:
    (tmp_path / "targets_of_a_package.py").write_text("from .other import x\n")
    with pytest.raises(TargetError, match=r"no known parent .*; name the package too, as package.module:object$"):
        load_target("targets_of_a_package:x", {})
    with pytest.raises(TargetError, match=r"got the class Empty itself$"):
        load_target(f"{module}:makes_class", {"gain": 1})


def test_args_that_do_not_fit_are_refused_with_those_that_do(module: str) -> None:
    with pytest.raises(TargetError, match=r"unexpected keyword argument 'gian'.*; args may have gain$"):
        load_target(f"{module}:make", {"gian": 2.0})
    with pytest.raises(TargetError, match=r"unexpected keyword argument 'gain'.*; args may have nothing$"):
        load_target(f"{module}:breaks", {"gain": 2.0})


def test_args_for_what_cannot_be_called_are_refused(module: str) -> None:
    with pytest.raises(TargetError, match="it takes no args: Policy cannot be called"):
        load_target(f"{module}:model", {"gain": 1.0})
