"""A TorchScript file as a model: `target: torchscript:FILE`.

Such a file tells the names of its inputs, not their dtypes and shapes: those can be declared. A module that keeps
state in itself has each robot's in place for its call.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inferential.policies.batching import run_row, run_rows, run_stacked
from inferential.policies.files import PolicyFileError, check_count, missing_package, policy_file
from inferential.policies.tensors import Array, TensorSpec, specs_of
from inferential.policies.torch_device import torch_device
from inferential.policies.torchscript_graph import kept_in, trains

if TYPE_CHECKING:
    import torch

DEFAULT_MAX_BATCH_SIZE = 8
_MAY_LACK = "Optional[Tensor]"
"""The type of an argument that may be None."""
_INTERPRETER = "The following operation failed in the TorchScript interpreter"
"""How torch begins an error inside a module; the whole stack follows, and what is wrong in the last line."""


def open_torchscript(
    path: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
    device: str | None = None,
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
    threads: int | None = None,
    keeps_state: bool | None = None,
) -> TorchScriptPolicy | StatefulTorchScriptPolicy:
    """Returns the policy of a TorchScript file; inputs and outputs have an axis for the robots in front.

    Args:
        path: of the file.
        inputs: dtype and shape by name, as `{state: {dtype: float32, shape: [7]}}`, in the order of its arguments;
            without them the file's argument names, in any dtype and shape.
        outputs: names of the outputs, where it returns a tuple; an only output is `actions`. Without them those of a
            named tuple.
        device: as torch names it; "cuda" where there is one, else "cpu", by default.
        max_batch_size: rows in one call.
        threads: that one operation may use on the CPU.
        keeps_state: whether attributes that its forward() changes are a robot's, and not a cache that all may share;
            by default they are.

    Raises:
        PolicyFileError: there is no such file, torch cannot read it, or it was traced in training mode.
        ValueError: naming the argument.
    """
    check_count("max_batch_size", max_batch_size)
    _check_options(outputs, threads, keeps_state)
    try:
        import torch
    except ModuleNotFoundError as error:
        raise missing_package(error, "torch") from error
    file, chosen = policy_file(path), torch_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    module, arguments = _loaded(path, file, chosen)
    specs, takes_map = _inputs(path, arguments, inputs)
    form = _Form(module, chosen, specs, None if outputs is None else list(outputs), takes_map)
    kept = kept_in(module) if keeps_state is not False else []
    if keeps_state and not kept:
        raise ValueError(f"keeps_state: {path}: its forward() changes no attribute")
    return StatefulTorchScriptPolicy(form, kept) if kept else TorchScriptPolicy(form, max_batch_size)


def _check_options(outputs: Sequence[str] | None, threads: int | None, keeps_state: bool | None) -> None:
    if isinstance(outputs, str):
        raise ValueError(f"outputs: expected a list of names, got {outputs!r}")
    if outputs is not None and len(set(outputs)) < len(outputs):
        raise ValueError(f"outputs: expected different names, got {', '.join(outputs)}")
    if threads is not None:
        check_count("threads", threads)
    if keeps_state is not None and type(keeps_state) is not bool:
        raise ValueError(f"keeps_state: expected true or false, got {keeps_state!r}")


def _loaded(path: str, file: str, device: torch.device) -> tuple[torch.jit.ScriptModule, Sequence[Any]]:
    """Returns the module of a file, in evaluation mode, and the arguments of its forward().

    Raises:
        PolicyFileError: torch cannot read it, it has no forward(), or it was traced in training mode.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit altogether, from torch 2.11 on
        try:
            module = torch.jit.load(file, map_location=device)
        except RuntimeError as error:
            raise PolicyFileError(
                f"torch cannot read {path} as TorchScript: expected what torch.jit.save wrote, no state_dict, pickled"
                f" module or exported program (.pt2): {str(error).splitlines()[0].partition('. ')[0]}"
            ) from error
        module.eval()
        if not hasattr(module, "forward"):
            raise PolicyFileError(f"{path}: expected a module with forward(), got {module.original_name} without it")
        arguments = module.forward.schema.arguments[1:]  # of the first, self
    if (operation := trains(module)) != "":
        raise PolicyFileError(
            f"{path}: its {operation} runs as in training, so that answers are by chance or depend on other robots:"
            " call eval() on the module before torch.jit.trace"
        )
    return module, arguments


def _inputs(path: str, arguments: Sequence[Any], declared: Mapping[str, Any] | None) -> tuple[list[TensorSpec], bool]:
    """Returns the inputs of a module, and whether its forward() takes them as one map by name.

    Arguments that have defaults keep these where no input is declared for them.

    Raises:
        PolicyFileError: it takes what is no tensor.
        ValueError: it does not take what is declared, or has to be declared.
    """
    form = f"forward({', '.join(f'{one.name}: {one.type}' for one in arguments)})"
    needed = [one for one in arguments if not one.has_default_value()]
    if not needed:
        raise PolicyFileError(f"{path}: its {form} needs no argument, expected the tensors of an observation")
    takes_map = len(needed) == 1 and str(needed[0].type) == "Dict[str, Tensor]"
    if not takes_map and (odd := [one for one in needed if str(one.type) not in ("Tensor", _MAY_LACK)]):
        raise PolicyFileError(f"{path}: {form}: {odd[0].name}: expected tensors, or a map of them")
    if declared is None:
        if takes_map:
            raise ValueError(f"inputs: expected those of the map in {form}, by name")
        return [TensorSpec(one.name, optional=str(one.type) == _MAY_LACK) for one in needed], False
    specs = specs_of(declared, "inputs")
    if not specs or not (takes_map or len(needed) <= len(specs) <= len(arguments)):
        raise ValueError(f"inputs: expected those of {form}, got {', '.join(declared) or 'none'}")
    return specs, takes_map


@dataclass(frozen=True, slots=True)
class _Form:
    """A module, and how it is called.

    Attributes:
        module: what is called with the inputs in order.
        device: where it is.
        inputs: what it takes of an observation.
        names: of what it returns in a tuple; None: what `_named` makes of it.
        takes_map: whether it takes its inputs as one map by name.
    """

    module: torch.jit.ScriptModule
    device: torch.device
    inputs: list[TensorSpec]
    names: list[str] | None
    takes_map: bool


class _Module:
    """Runs a TorchScript module.

    Args:
        form: the module.
        max_batch_size: rows in one call.
    """

    def __init__(self, form: _Form, max_batch_size: int) -> None:
        self._form = form
        self.inputs: list[TensorSpec] = form.inputs
        self.max_batch_size: int = max_batch_size

    @property
    def metadata(self) -> dict[str, Any]:
        """Inputs and outputs, as far as they are known, and the device."""
        return {
            "platform": "pytorch_torchscript",
            "max_batch_size": self.max_batch_size,
            "inputs": [one.as_dict() for one in self.inputs],
            "outputs": [TensorSpec(name).as_dict() for name in self._form.names or _returned(self._form.module)],
            "device": str(self._form.device),
        }

    def _run(self, arrays: dict[str, Array]) -> dict[str, Array]:
        import torch

        form = self._form
        with torch.inference_mode():
            given = {name: _tensor(array).to(form.device, non_blocking=True) for name, array in arrays.items()}
            try:
                returned = (
                    form.module(given) if form.takes_map else form.module(*(given.get(one.name) for one in form.inputs))
                )
            except (RuntimeError, torch.jit.Error) as error:  # the latter where forward() itself raises
                if not str(error).startswith(_INTERPRETER):
                    raise
                what = str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ")
                came = ", ".join(f"{name} {array.dtype.name} {list(array.shape)}" for name, array in arrays.items())
                raise RuntimeError(f"{what} (forward() was given {came})") from error
        return {name: _array(name, value) for name, value in self._named(returned).items()}

    def _named(self, returned: Any) -> Mapping[str, Any]:
        """Returns what forward() returned by name."""
        if isinstance(returned, Mapping):
            return {str(name): value for name, value in returned.items()}
        several = returned if isinstance(returned, tuple | list) else (returned,)
        own = getattr(returned, "_fields", None) or [f"output_{at}" for at in range(len(several))]
        names = self._form.names or (["actions"] if len(several) == 1 else own)
        if len(names) != len(several):
            raise ValueError(f"outputs: {len(names)} names for the {len(several)} tensors that forward() returned")
        return dict(zip(names, several, strict=True))


class TorchScriptPolicy(_Module):
    """A module that robots share, observations of several in one call; `open_torchscript` makes it."""

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one observation.

        Raises:
            InvalidObservation: it does not fit the inputs.
        """
        return run_row(self.inputs, observation, self._run)

    def infer_batch(self, observations: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Returns for each observation the outputs, or the error of one that does not fit."""
        return run_rows(self.inputs, observations, self._run)

    def infer_stacked(self, arrays: dict[str, Array]) -> Mapping[str, Any]:
        """Returns the outputs of observations that fit, each input as one array of them all."""
        return run_stacked(arrays, self._run)


class StatefulTorchScriptPolicy(_Module):
    """A module that keeps state in itself, each robot's in place for its call; `open_torchscript` makes it.

    Args:
        form: the module.
        kept: the attributes that hold its state, by their paths; an episode begins with what the file has.
    """

    def __init__(self, form: _Form, kept: Sequence[str]) -> None:
        super().__init__(form, max_batch_size=1)
        self._kept = []
        for path in kept:
            *parts, name = path.split(".")
            self._kept.append((functools.reduce(getattr, parts, form.module), name))
        self._first = [copy.deepcopy(getattr(owner, name)) for owner, name in self._kept]

    def infer(self, observation: Mapping[str, Any], session: Any) -> dict[str, Any]:
        """Returns the outputs for one observation of a robot.

        Raises:
            InvalidObservation: it does not fit the inputs; the robot's state is as before.
        """
        state = session.state if session.state is not None else copy.deepcopy(self._first)
        for (owner, name), value in zip(self._kept, state, strict=True):
            setattr(owner, name, value)
        result = run_row(self.inputs, observation, self._run)
        session.state = [getattr(owner, name) for owner, name in self._kept]
        return result


def _returned(module: torch.jit.ScriptModule) -> list[str]:
    """Returns the names of what forward() returns; none where its type does not tell them (a map, a named tuple)."""
    kind = module.forward.schema.returns[0].type
    if kind.kind() == "TupleType" and str(kind).startswith("Tuple["):
        return [f"output_{at}" for at in range(len(kind.elements()))]
    return ["actions"] if kind.kind() in ("TensorType", "OptionalType") else []


def _tensor(array: Array) -> torch.Tensor:
    import torch

    if array.dtype.name == "bfloat16":  # of ml_dtypes, which torch does not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(name: str, value: Any) -> Array:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ValueError(f"output {name!r}: expected a tensor of forward(), got {type(value).__name__}")
    tensor = value.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).contiguous().numpy()
    return array
