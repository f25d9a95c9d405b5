"""What a policy declares of its tensors, and whether an observation fits them.

No I/O, and nothing of the library that runs the policy.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.dtype_names import named_dtype
from inferential.errors import InvalidObservation

Array = npt.NDArray[Any]

TEXT = "string"
"""The dtype of a tensor of texts."""
_FLOATS = ("float16", "float32", "float64", "bfloat16")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a policy, for one robot: without the axis of the batch.

    Attributes:
        name: the key in an observation or a result.
        dtype: numpy's name of it; "string" for texts; "" where the file does not say.
        shape: sizes; None where a size may vary. None for all where the file does not say.
        optional: whether an observation may lack it.
    """

    name: str
    dtype: str = ""
    shape: tuple[int | None, ...] | None = None
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.form}{' (optional)' if self.optional else ''}"

    @property
    def form(self) -> str:
        """Dtype and shape, as "float32 [3, *, *]"."""
        return f"{self.dtype or 'any dtype'} {_shape_text(self.shape)}"

    def as_dict(self) -> dict[str, Any]:
        """Returns it for JSON; -1 where a size may vary, as in the Open Inference Protocol."""
        shape = None if self.shape is None else [-1 if size is None else size for size in self.shape]
        described = {"name": self.name, "dtype": self.dtype, "shape": shape}
        return {**described, "optional": True} if self.optional else described


def specs_of(declared: Mapping[str, Any], argument: str) -> list[TensorSpec]:
    """Returns what a configuration declares: `{NAME: {dtype: float32, shape: [3, -1]}}`.

    Args:
        declared: by name.
        argument: what it is called, for errors.

    Raises:
        ValueError: naming the entry that says something else.
    """
    if not isinstance(declared, Mapping):
        raise ValueError(f"{argument}: expected a map of names to dtype and shape, got {declared!r}")
    specs = []
    for name, one in declared.items():
        try:
            specs.append(spec_of(name, one))
        except ValueError as error:
            raise ValueError(f"{argument}: {name!r}: {error}") from None
    return specs


def spec_of(name: str, declared: Any) -> TensorSpec:
    """Returns what a configuration declares of one tensor: `{dtype: float32, shape: [3, -1]}`.

    With `optional: true` an observation may lack it.

    Raises:
        ValueError: it says something else.
    """
    if not isinstance(declared, Mapping) or not declared.keys() <= {"dtype", "shape", "optional"}:
        raise ValueError(f"expected a map with dtype, shape and optional, got {declared!r}")
    dtype, shape, optional = declared.get("dtype", ""), declared.get("shape"), declared.get("optional", False)
    if type(optional) is not bool:
        raise ValueError(f"optional: expected true or false, got {optional!r}")
    if dtype not in ("", TEXT, "bfloat16"):
        try:
            dtype = np.dtype(dtype).name
        except TypeError:
            raise ValueError(f"expected a dtype as float32, got {dtype!r}") from None
    if shape is not None:
        if not isinstance(shape, Sequence) or not all(type(size) is int and size >= -1 for size in shape):
            raise ValueError(f"expected sizes, -1 where one may vary, got {shape!r}")
        shape = tuple(None if size == -1 else size for size in shape)
    return TensorSpec(name, dtype, shape, optional)


def read_specs(said: Any) -> list[TensorSpec]:
    """Returns what a model's metadata lists as inputs or outputs; empty where it does not say it in that form.

    Args:
        said: maps as `TensorSpec.as_dict` makes them.
    """
    specs = []
    for one in said if isinstance(said, list) else []:
        shape = one.get("shape") if isinstance(one, Mapping) else ()
        is_shape = shape is None or (isinstance(shape, list) and all(type(size) is int for size in shape))
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str) or not is_shape:
            return []
        sizes = None if shape is None else tuple(None if size < 0 else size for size in shape)
        specs.append(TensorSpec(one["name"], str(one.get("dtype") or ""), sizes, one.get("optional") is True))
    return specs


def pick(specs: Sequence[TensorSpec], observation: Mapping[str, Any]) -> dict[str, Array]:
    """Returns the tensors that a policy takes of an observation, in its dtypes and in native byte order.

    What else the observation has is left out. An axis of size 1 in front, which a policy's own batches have, is taken
    off. Numbers change their dtype where their values stay: integers to wider ones and to floats, float64 to float32.

    Args:
        specs: the inputs.
        observation: arrays, numbers and strings by key.

    Raises:
        InvalidObservation: naming the key, what came and what was expected.
    """
    return {
        spec.name: _fitted(spec, _value(spec, specs, observation))
        for spec in specs
        if not spec.optional or spec.name in observation
    }


def pick_all(observation: Mapping[str, Any]) -> dict[str, Array]:
    """Returns all tensors of an observation as they came, for a policy that does not say what it takes.

    Raises:
        InvalidObservation: naming a key that is no tensor, and what came.
    """
    picked = {}
    for name, value in observation.items():
        _, came = _read(TensorSpec(name, "", None), value)
        picked[name] = _fitted(TensorSpec(name, TEXT if came == TEXT else "", None), value)
    return picked


def _value(spec: TensorSpec, specs: Sequence[TensorSpec], observation: Mapping[str, Any]) -> Any:
    try:
        return observation[spec.name]
    except KeyError:
        others = [str(key) for key in observation if all(str(key) != one.name for one in specs)]
        close = difflib.get_close_matches(spec.name, others, n=1)
        hint = f"; did you mean {spec.name!r} by {close[0]!r}?" if close else ""
        came = ", ".join(sorted(map(str, observation))) or "nothing"
        raise InvalidObservation(f"{spec.name!r} is missing: expected {spec.form}, got {came}{hint}") from None


def _fitted(spec: TensorSpec, value: Any) -> Array:
    if type(value) is np.ndarray and value.shape == spec.shape and spec.dtype not in ("", TEXT):
        same: Array = value
        if same.dtype == named_dtype(spec.dtype):  # in native byte order: the usual case
            return same
    array, came = _read(spec, value)
    if (came == TEXT) != (spec.dtype == TEXT) or (came != TEXT and array.dtype.hasobject):
        raise _unfit(spec, came, array.shape)
    if spec.shape is not None:
        if array.ndim == len(spec.shape) + 1 and array.shape[0] == 1:
            array = array.reshape(array.shape[1:])  # not array[0], which is no array where it has no other axis
        elif array.ndim == 0 and spec.shape in ((1,), (None,)):
            array = array.reshape(1)
        if len(spec.shape) != array.ndim or any(
            size is not None and size != got for size, got in zip(spec.shape, array.shape, strict=True)
        ):
            raise _unfit(spec, came, np.shape(value))
    if came == TEXT:
        return array
    return _cast(spec, array)


def _read(spec: TensorSpec, value: Any) -> tuple[Array, str]:
    """Returns a value as an array, texts as str objects, and the name of its dtype."""
    if isinstance(value, str):
        return np.array(value, dtype=object), TEXT
    try:
        array: Array = np.asarray(value)
    except ValueError:
        raise InvalidObservation(f"{spec.name!r}: expected {spec.form}, got lists of unequal lengths") from None
    if array.dtype.kind not in "OSU":
        return array, array.dtype.name
    texts = np.empty(array.shape, object)
    for place, one in np.ndenumerate(array):
        try:
            texts[place] = one.decode() if isinstance(one, bytes) else one
        except UnicodeDecodeError:
            raise InvalidObservation(f"{spec.name!r}: expected {spec.form}, got bytes that are no UTF-8") from None
        if not isinstance(texts[place], str):
            return array, type(one).__name__
    return texts, TEXT


def _cast(spec: TensorSpec, array: Array) -> Array:
    wanted = np.dtype(array.dtype.name) if not spec.dtype else named_dtype(spec.dtype)
    if array.dtype == wanted:  # in native byte order
        return array
    from_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    to_float = spec.dtype in _FLOATS or not spec.dtype
    if (from_float and not to_float) or array.dtype.kind not in "biufV" or (wanted.kind == "b"):
        raise _unfit(spec, array.dtype.name, array.shape)
    if wanted.kind in "iu" and array.dtype.kind in "iu" and array.size and not np.can_cast(array.dtype, wanted):
        limits = np.iinfo(wanted)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            value = low if low < limits.min else high
            raise InvalidObservation(f"{spec.name!r}: expected {spec.form}, got the value {value}")
    try:
        with np.errstate(over="raise"):
            return array.astype(wanted)
    except FloatingPointError:
        largest = np.abs(array[np.isfinite(array)]).max()
        raise InvalidObservation(f"{spec.name!r}: expected {spec.form}, got the value {largest:g}") from None


def _unfit(spec: TensorSpec, dtype: str, shape: tuple[int, ...]) -> InvalidObservation:
    return InvalidObservation(f"{spec.name!r}: expected {spec.form}, got {dtype} {_shape_text(shape)}")


def _shape_text(shape: Sequence[int | None] | None) -> str:
    if shape is None:
        return "of any shape"
    return f"[{', '.join('*' if size is None else str(size) for size in shape)}]"
