"""A TorchScript file as a model: `target: torchscript:FILE`.

Such a file tells the names of its inputs, not their dtypes and shapes: those can be declared.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inferential.policies.batching import run_row, run_rows
from inferential.policies.files import PolicyFileError, check_count, missing_package, policy_file
from inferential.policies.tensors import Array, TensorSpec, specs_of
from inferential.policies.torch_device import torch_device

if TYPE_CHECKING:
    import torch

DEFAULT_MAX_BATCH_SIZE = 8
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
) -> TorchScriptPolicy:
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

    Raises:
        PolicyFileError: there is no such file, or torch cannot read it.
        ValueError: naming the argument.
    """
    check_count("max_batch_size", max_batch_size)
    if isinstance(outputs, str):
        raise ValueError(f"outputs: expected a list of names, got {outputs!r}")
    try:
        import torch
    except ModuleNotFoundError as error:
        raise missing_package(error, "torch") from error
    file = policy_file(path)
    if threads is not None:
        check_count("threads", threads)
        torch.set_num_threads(threads)
    chosen = torch_device(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit altogether, from torch 2.11 on
        try:
            module = torch.jit.load(file, map_location=chosen)
        except RuntimeError as error:
            raise PolicyFileError(
                f"torch cannot read {path} as TorchScript: expected what torch.jit.save wrote, no state_dict, pickled"
                f" module or exported program (.pt2): {str(error).splitlines()[0].partition('. ')[0]}"
            ) from error
        module.eval()
        if not hasattr(module, "forward"):
            raise PolicyFileError(f"{path}: expected a module with forward(), got {module.original_name} without it")
        arguments = module.forward.schema.arguments[1:]  # of the first, self
    specs, takes_map = _inputs(path, arguments, inputs)
    return TorchScriptPolicy(module, chosen, specs, outputs, max_batch_size, takes_map=takes_map)


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
    if not takes_map and (odd := [one for one in needed if str(one.type) not in ("Tensor", "Optional[Tensor]")]):
        raise PolicyFileError(f"{path}: {form}: {odd[0].name}: expected tensors, or a map of them")
    if declared is None:
        if takes_map:
            raise ValueError(f"inputs: expected those of the map in {form}, by name")
        return [TensorSpec(one.name) for one in needed], False
    specs = specs_of(declared, "inputs")
    if not specs or not (takes_map or len(needed) <= len(specs) <= len(arguments)):
        raise ValueError(f"inputs: expected those of {form}, got {', '.join(declared) or 'none'}")
    return specs, takes_map


class TorchScriptPolicy:
    """Runs a TorchScript module, observations of several robots in one call; `open_torchscript` makes it.

    Args:
        module: what is called with the inputs in order.
        device: where it is.
        inputs: what it takes of an observation.
        outputs: names of what it returns in a tuple.
        max_batch_size: rows in one call.
        takes_map: whether it takes its inputs as one map by name.
    """

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        device: torch.device,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[str] | None,
        max_batch_size: int,
        *,
        takes_map: bool = False,
    ) -> None:
        self._module = module
        self._takes_map = takes_map
        self._device = device
        self._names = None if outputs is None else list(outputs)
        self.inputs: list[TensorSpec] = list(inputs)
        self.max_batch_size = max_batch_size

    @property
    def metadata(self) -> dict[str, Any]:
        """Inputs, as far as they are known, and the device."""
        return {
            "platform": "pytorch_torchscript",
            "max_batch_size": self.max_batch_size,
            "inputs": [one.as_dict() for one in self.inputs],
            "outputs": [TensorSpec(name).as_dict() for name in self._names or ["actions"]],
            "device": str(self._device),
        }

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one observation.

        Raises:
            InvalidObservation: it does not fit the inputs.
        """
        return run_row(self.inputs, observation, self._run)

    def infer_batch(self, observations: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Returns for each observation the outputs, or the error of one that does not fit."""
        return run_rows(self.inputs, observations, self._run)

    def _run(self, arrays: dict[str, Array]) -> dict[str, Array]:
        import torch

        with torch.inference_mode():
            given = {name: _tensor(array).to(self._device, non_blocking=True) for name, array in arrays.items()}
            try:
                returned = self._module(given) if self._takes_map else self._module(*given.values())
            except RuntimeError as error:
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
        names = self._names or (["actions"] if len(several) == 1 else own)
        if len(names) != len(several):
            raise ValueError(f"outputs: {len(names)} names for the {len(several)} tensors that forward() returned")
        return dict(zip(names, several, strict=True))


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
