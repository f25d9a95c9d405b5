"""An ONNX file as a model: `target: onnx:FILE`, through onnxruntime.

Names, dtypes and shapes come from the file. Where the first axis of all its inputs may vary, observations of several
robots run in one call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inferential.errors import InvalidObservation
from inferential.policies.batching import run_row, run_rows, run_stacked
from inferential.policies.files import PolicyFileError, check_count, check_fetched, missing_package, policy_file
from inferential.policies.tensors import TEXT, Array, TensorSpec, pick

if TYPE_CHECKING:
    import onnxruntime

DEFAULT_MAX_BATCH_SIZE = 8
_CPU = "CPUExecutionProvider"
_FATAL = 4  # of onnxruntime's levels of its log
_DTYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(string)": TEXT,
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


def open_onnx(
    path: str,
    *,
    max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    batched: bool | None = None,
) -> OnnxPolicy:
    """Returns the policy of an ONNX file.

    Args:
        path: of the file.
        max_batch_size: rows in one call, where the file takes several.
        threads: of one operation (`intra_op_num_threads`); by default one for each core. They never spin while idle.
        providers: of onnxruntime, in order of preference; by default those that are installed, devices first.
        batched: whether the first axis of inputs and outputs counts robots; by default it does where its size may vary
            or is 1 in all inputs and outputs.

    Raises:
        PolicyFileError: there is no such file, onnxruntime cannot read it, or it has inputs that no robot sends.
        ValueError: naming the argument.
    """
    check_count("max_batch_size", max_batch_size)
    if threads is not None:
        check_count("threads", threads)
    if batched is not None and type(batched) is not bool:
        raise ValueError(f"batched: expected true or false, got {batched!r}")
    session = _session(path, threads, providers)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    for what, nodes in (("inputs", inputs), ("outputs", outputs)):
        if not nodes:
            raise PolicyFileError(f"{path} has no {what}: expected those of a policy")
    has_batch_axis = _counts_robots(inputs, outputs) if batched is None else batched
    first = [one.shape[0] for one in inputs if one.shape]
    if batched and not (first and all(_varies(size) or size == 1 for size in first)):
        raise ValueError(
            f"batched: {path}: expected inputs whose first axis varies or is 1, got "
            + ", ".join(f"{one.name} {one.shape}" for one in inputs)
        )
    # An input without axes, as a guidance weight, is one for all robots of a call, and an output, as a sum, of all.
    decide = inputs if batched else [*inputs, *outputs]
    if has_batch_axis and all(one.shape and _varies(one.shape[0]) for one in decide):
        return BatchedOnnxPolicy(path, session, has_batch_axis=True, max_batch_size=max_batch_size)
    return OnnxPolicy(path, session, has_batch_axis=has_batch_axis)


def _counts_robots(inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
    """Returns whether the first axis of a file's inputs and outputs counts robots, by its sizes.

    Outputs are looked at too: some files fold the robots into one row. An axis that a tensor has twice, as a mask from
    each step of a sequence to each, counts something else.
    """
    shapes = [one.shape for one in (*inputs, *outputs) if one.shape]
    twice = {shape[0] for shape in shapes if isinstance(shape[0], str) and shape[0] in shape[1:]}
    varies = [_varies(shape[0]) and shape[0] not in twice for shape in shapes]
    fit = all(free or shape[0] == 1 for free, shape in zip(varies, shapes, strict=True))
    return fit and any(one.shape for one in inputs)


class OnnxPolicy:
    """Runs an ONNX file, one observation a call; `open_onnx` makes it.

    A result has the outputs by their names; an only output is `actions`.

    Args:
        path: of the file, for messages.
        session: of onnxruntime.
        has_batch_axis: whether inputs and outputs have an axis for the robots in front.

    Raises:
        PolicyFileError: an input or output is no tensor.
    """

    max_batch_size = 1

    def __init__(self, path: str, session: onnxruntime.InferenceSession, *, has_batch_axis: bool) -> None:
        self._session = session
        self._options = _run_options()
        self._has_batch_axis = has_batch_axis
        self.inputs: list[TensorSpec] = [_spec(path, one, has_batch_axis) for one in session.get_inputs()]
        """What it takes of an observation."""
        self._without_axes = {one.name for one in session.get_inputs() if not one.shape}
        self._same_sizes = _same_sizes(session.get_inputs(), has_batch_axis=has_batch_axis)
        outputs = [_spec(path, one, has_batch_axis) for one in session.get_outputs()]
        self._names = [one.name for one in outputs]
        self._keys = ["actions"] if len(outputs) == 1 else self._names
        self.outputs: list[TensorSpec] = [
            TensorSpec(key, one.dtype, one.shape) for key, one in zip(self._keys, outputs, strict=True)
        ]
        """What a result has."""
        described = session.get_modelmeta()
        version = described.custom_metadata_map.get("version", "") or described.version
        self.model_version: str = str(version) if version not in (0, 2**63 - 1) else ""  # the latter: it does not say

    @property
    def metadata(self) -> dict[str, Any]:
        """Inputs and outputs, where it runs, and the file's names of the outputs."""
        return {
            "platform": "onnxruntime_onnx",
            "max_batch_size": self.max_batch_size,
            "inputs": [one.as_dict() for one in self.inputs],
            "outputs": [one.as_dict() for one in self.outputs],
            "output_names": self._names,
            "providers": self._session.get_providers(),
        }

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one observation.

        Raises:
            InvalidObservation: it does not fit the inputs.
        """
        if self._has_batch_axis:
            return run_row(self.inputs, observation, self._run_alone)
        return self._run(pick(self.inputs, observation))

    def _run_alone(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """Returns the outputs of one row; what has no axes in the file has none there, and one here."""
        given = {name: array.reshape(()) if name in self._without_axes else array for name, array in arrays.items()}
        return {key: array if array.ndim else array[None] for key, array in self._run(given).items()}

    def _run(self, arrays: dict[str, Array]) -> dict[str, Array]:
        if self._same_sizes:
            self._check_sizes(arrays)
        try:
            outputs = self._session.run(self._names, arrays, self._options)
        except Exception as error:  # onnxruntime's own kinds have no common base but this
            raise RuntimeError(f"onnxruntime: {_reason(error)}") from error
        return dict(zip(self._keys, outputs, strict=True))

    def _check_sizes(self, arrays: Mapping[str, Array]) -> None:
        """Checks the axes to which the file gives one name: onnxruntime would repeat one of size 1 for the others."""
        begin = 1 if self._has_batch_axis else 0
        for axis, places in self._same_sizes.items():
            first, at = places[0]
            size = arrays[first].shape[at]
            for name, place in places[1:]:
                shape = arrays[name].shape
                if shape[place] != size:
                    came = f"{arrays[name].dtype.name} {list(shape[begin:])}"
                    text = f"{name!r}: expected {size} for {axis!r}, as in {first!r}, got {came}"
                    raise InvalidObservation(text)


class BatchedOnnxPolicy(OnnxPolicy):
    """Runs an ONNX file, observations of several robots in one call.

    Args:
        path, session, has_batch_axis: as for `OnnxPolicy`.
        max_batch_size: rows in one call.
    """

    def __init__(
        self, path: str, session: onnxruntime.InferenceSession, *, has_batch_axis: bool, max_batch_size: int
    ) -> None:
        super().__init__(path, session, has_batch_axis=has_batch_axis)
        self.max_batch_size = max_batch_size

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs for one observation; raises InvalidObservation where it does not fit the inputs."""
        return run_row(self.inputs, observation, self._run)

    def infer_batch(self, observations: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Returns for each observation the outputs, or the error of one that does not fit."""
        return run_rows(self.inputs, observations, self._run)

    def infer_stacked(self, arrays: dict[str, Array]) -> Mapping[str, Any]:
        """Returns the outputs of observations that fit, each input as one array of them all."""
        return run_stacked(arrays, self._run)


def _run_options() -> onnxruntime.RunOptions:
    """Returns those of each run: what fails is an error, and not a line of onnxruntime's own log as well."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL
    return options


def _session(path: str, threads: int | None, providers: Sequence[str] | None) -> onnxruntime.InferenceSession:
    path = policy_file(path)
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise missing_package(error, "onnxruntime", "onnxruntime-gpu") from error
    options = onnxruntime.SessionOptions()
    # Idle threads would spin, and take a core from the server and the other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    available = onnxruntime.get_available_providers()
    if providers is None:
        # Of what is there, what can run any file, and TensorRT would compile for minutes.
        providers = [one for one in ("CUDAExecutionProvider", "ROCMExecutionProvider", _CPU) if one in available]
    elif isinstance(providers, str):
        raise ValueError(f"providers: expected a list, got {providers!r}")
    elif missing := [one for one in providers if one not in available]:
        raise ValueError(f"providers: expected of {', '.join(available)}, got {missing[0]!r}")
    try:
        return onnxruntime.InferenceSession(path, options, providers=list(providers))
    except Exception as error:  # onnxruntime's own kinds have no common base but this
        reason = _reason(error)
        raise PolicyFileError(f"onnxruntime cannot read {path}: {reason}{_unfetched_beside(path, reason)}") from error


def _reason(error: Exception) -> str:
    """Returns what onnxruntime says, without the number of its error, the file's path and the place in its source."""
    text = re.sub(
        r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed: ?)?", "", " ".join(str(error).split())
    )
    text = re.sub(r"(?<=[.:]) ?\w+\.cc:\d+ \w+(?= )", "", text)  # of a file of weights beside it
    text = re.sub(r"^Non-zero status code returned while running (.*) Status Message: ", r"\1 ", text)  # of a node
    return re.sub(r"/onnxruntime_src/\S+ .*?\)(?: const)? (?:(?!/).*? was false\. )?", "", text)


def _unfetched_beside(path: str, reason: str) -> str:
    """Returns which file beside one was not downloaded, where its weights are in another."""
    if "xternal" not in reason:
        return ""
    for file in sorted(Path(path).parent.iterdir()):
        try:
            if file.is_file():
                check_fetched(file)
        except PolicyFileError as error:
            return f"; {error}"
    return ""


def _same_sizes(inputs: Sequence[Any], *, has_batch_axis: bool) -> dict[str, list[tuple[str, int]]]:
    """Returns the inputs' axes to which the file gives one name, by that name; not those of the batch alone."""
    places: dict[str, list[tuple[str, int]]] = {}
    for one in inputs:
        for at, size in enumerate(one.shape):
            if isinstance(size, str):
                places.setdefault(size, []).append((one.name, at))
    return {
        axis: same
        for axis, same in places.items()
        if len(same) > 1 and not (has_batch_axis and all(at == 0 for _, at in same))
    }


def _spec(path: str, node: Any, has_batch_axis: bool) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise PolicyFileError(
            f"{path}: {node.name}: expected a tensor of numbers or strings that numpy has, got {node.type}"
        )
    sizes = tuple(None if _varies(size) else int(size) for size in node.shape)
    return TensorSpec(node.name, dtype, sizes[1:] if has_batch_axis else sizes)


def _varies(size: Any) -> bool:
    return size is None or isinstance(size, str)  # the name of an axis
