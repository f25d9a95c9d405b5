"""A fast path: the rows of a call as the arrays of one batch and back, without arrays of each row.

A model with `infer_stacked`, as those of ONNX and TorchScript files, takes arrays with the axis of the batch in front.
Where all rows of a call have one description, which fits the model's inputs as it is, each input is joined from the
payloads at once. Between two calls the processor's caches hold the model's weights and not Python's code: whatever runs
for each row takes twice the time there. Other calls, and results in other forms, go row by row (`rows.py`), with the
same outcome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from inferential.policies.tensors import TEXT, Array, TensorSpec
from inferential.proto.tensors import Buffer
from inferential.replica.rows import Layout, RawTensor, RowReader, RowWriter

_REMEMBERED = 1024
_NUMBERS = "biuf"
_NATIVE_ORDER = "=|"


@runtime_checkable
class StackedModel(Protocol):
    """A model that takes arrays of several observations."""

    inputs: Sequence[TensorSpec]
    """What it takes of an observation."""

    def infer_stacked(self, arrays: dict[str, Array]) -> Mapping[str, Array]:
        """Returns the outputs of several observations, a row for each."""
        ...


class StackedRows:
    """Reads the rows of calls of one model, and writes its results.

    Args:
        inputs: of the model.
        reader: what descriptions mean.

    Attributes:
        calls: how many were read so.
    """

    def __init__(self, inputs: Sequence[TensorSpec], reader: RowReader) -> None:
        self._inputs = inputs
        self._reader = reader
        self._parts: dict[bytes, list[RawTensor] | None] = {}  # by description
        self._writer = RowWriter()
        self._written: tuple[str, Any, tuple[int, ...]] | None = None
        self._description = b""  # of a row of that name, dtype and shape
        self.calls: int = 0

    def read(self, descriptions: Sequence[Any], payloads: Sequence[Buffer]) -> dict[str, Array] | None:
        """Returns the model's inputs of all rows; None where they go row by row.

        Args:
            descriptions, payloads: of each row.
        """
        description, length = bytes(descriptions[0]), len(payloads[0])
        for at in range(1, len(descriptions)):
            if descriptions[at] != description or len(payloads[at]) != length:
                return None
        if description not in self._parts:
            self._remember(description)
        parts = self._parts[description]
        if parts is None:
            return None
        arrays: dict[str, Array] = {}
        for key, dtype, shape, offset in parts:
            end = offset + math.prod(shape) * dtype.itemsize
            if end > length:
                return None
            whole = end - offset == length
            rows = payloads if whole else [memoryview(payload)[offset:end] for payload in payloads]
            arrays[key] = np.ndarray((len(payloads), *shape), dtype, bytearray().join(rows))
        self.calls += 1
        return arrays

    def _remember(self, description: bytes) -> None:
        try:
            layout = self._reader.layout(description)
        except ValueError:
            layout = None
        if len(self._parts) >= _REMEMBERED:
            self._parts.clear()
        self._parts[description] = _parts(self._inputs, layout) if isinstance(layout, Layout) else None

    def write(self, outputs: Mapping[str, Any], count: int) -> list[Any] | None:
        """Returns the frames of all rows' results; None where they are written row by row.

        Args:
            outputs: of the model, with `count` rows.
            count: of the observations.
        """
        if len(outputs) != 1:
            return None
        ((name, array),) = outputs.items()
        if type(array) is not np.ndarray or array.dtype.kind not in _NUMBERS or not array.size:
            return None
        if array.dtype.byteorder not in _NATIVE_ORDER:
            return None
        if self._written != (form := (name, array.dtype, array.shape[1:])):
            self._description, _ = self._writer.values({name: array[0, ...]})
            self._written = form
        payload, size, description = array.tobytes(), array.nbytes // count, self._description
        return [frame for at in range(0, len(payload), size) for frame in (description, payload[at : at + size])]


def _parts(inputs: Sequence[TensorSpec], layout: Layout) -> list[RawTensor] | None:
    """Returns where the inputs lie in a payload; None where they are to be looked at in each row."""
    if layout.raw is None:
        return None
    tensors = {tensor[0]: tensor for tensor in layout.raw}
    parts = []
    for spec in inputs:
        if spec.name in layout.strings:
            return None
        part = tensors.get(spec.name)
        if part is None and spec.optional:
            continue
        if part is None or not _fits(spec, part):
            return None
        parts.append(part)
    return parts or None


def _fits(spec: TensorSpec, tensor: RawTensor) -> bool:
    _, dtype, shape, _ = tensor
    if spec.dtype == TEXT or spec.dtype not in ("", dtype.name):
        return False
    if spec.shape is None:
        return True
    return len(spec.shape) == len(shape) and all(
        size in (None, got) for size, got in zip(spec.shape, shape, strict=True)
    )
