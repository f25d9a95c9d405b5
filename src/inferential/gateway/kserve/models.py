"""What the Open Inference Protocol says of a model: metadata, configuration, and rows of its batches.

No I/O. A model that batches has the axis of the batch in front of its inputs and outputs, as Triton has it: a request
of several rows is several observations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inferential.errors import InvalidObservation
from inferential.policies.tensors import TEXT, Array, TensorSpec, read_specs
from inferential.proto.open_inference import datatype_of

VERSION = "1"
"""Of a model that does not say its version."""


@dataclass(frozen=True)
class ServedModel:
    """One model as clients of the protocol see it.

    Attributes:
        name: its id.
        version: as it says.
        platform: what runs it.
        inputs, outputs: for one robot; empty where nothing is known of them.
        output_keys: the key in a result by the output's name.
        max_batch_size: rows in one request; 0: it has no axis of a batch.
    """

    name: str
    version: str
    platform: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    output_keys: Mapping[str, str]
    max_batch_size: int

    @classmethod
    def of(cls, name: str, metadata: Mapping[str, Any]) -> ServedModel:
        """Returns a model by what it says of itself, as `Server.model_metadata` returns it.

        Args:
            name: its id.
            metadata: of the model; with `max_batch_size` it takes several robots' rows in one request.
        """
        inputs, outputs = read_specs(metadata.get("inputs")), read_specs(metadata.get("outputs"))
        keys = {one.name: one.name for one in outputs}
        largest = metadata.get("max_batch_size")
        names = metadata.get("output_names")
        if isinstance(names, list) and len(names) == len(outputs):  # the file's own
            keys = {str(name): one.name for name, one in zip(names, outputs, strict=True)}
            outputs = [TensorSpec(str(name), one.dtype, one.shape) for name, one in zip(names, outputs, strict=True)]
        return cls(
            name,
            str(metadata.get("version") or VERSION),
            str(metadata.get("platform") or "inferential"),
            inputs,
            outputs,
            keys,
            largest if inputs and type(largest) is int and largest > 1 else 0,
        )

    def metadata(self) -> dict[str, Any]:
        """Returns the body of `GET /v2/models/M`."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": self.platform,
            "inputs": [self._described(_with_axis(one)) for one in self.inputs],
            "outputs": [self._described(one) for one in self.outputs],
        }

    def config(self) -> dict[str, Any]:
        """Returns the body of `GET /v2/models/M/config`, as far as clients read it."""
        return {
            "name": self.name,
            "platform": self.platform,
            "backend": self.platform,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": self.max_batch_size,
            "input": [self._configured(_with_axis(one)) for one in self.inputs],
            "output": [self._configured(one) for one in self.outputs],
            "instance_group": [],
            "dynamic_batching": {},
            "parameters": {},
            "model_transaction_policy": {"decoupled": False},
        }

    def _described(self, spec: TensorSpec) -> dict[str, Any]:
        return {
            "name": spec.name,
            "datatype": datatype_of(spec.dtype or "float32"),
            "shape": [*([-1] if self.max_batch_size else []), *_sizes(spec)],
        }

    def _configured(self, spec: TensorSpec) -> dict[str, Any]:
        datatype = datatype_of(spec.dtype or "float32")
        return {
            "name": spec.name,
            "data_type": f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}",
            "dims": _sizes(spec),
            **({"optional": True} if spec.optional else {}),
        }

    def rows(self, tensors: Mapping[str, Array]) -> list[dict[str, Any]]:
        """Returns the observations of a request.

        Raises:
            InvalidObservation: naming the tensor, what came and what was expected.
        """
        if not self.inputs:
            return [{name: _value(name, array) for name, array in tensors.items()}]
        fitted: dict[str, Array] = {}
        for spec in self.inputs:
            if spec.name in tensors:
                fitted[spec.name] = self._fitted(spec, tensors[spec.name])
            elif not spec.optional:
                came = ", ".join(sorted(tensors)) or "none"
                raise InvalidObservation(f"input {spec.name!r} is missing: expected {spec.form}, got {came}")
        if unknown := sorted(tensors.keys() - {one.name for one in self.inputs}):
            names = ", ".join(one.name for one in self.inputs)
            raise InvalidObservation(f"unexpected input {unknown[0]!r}: model {self.name!r} takes {names}")
        if not self.max_batch_size:
            return [{name: _value(name, array) for name, array in fitted.items()}]
        counts = {name: len(array) for name, array in fitted.items()}
        if not counts:  # they may all be left out, but then nothing says how many rows there are
            raise InvalidObservation(
                f"expected one of the inputs {', '.join(one.name for one in self.inputs)}, got none"
            )
        count = next(iter(counts.values()))
        if any(other != count for other in counts.values()):
            raise InvalidObservation(f"inputs of different numbers of rows: {counts}")
        if not 1 <= count <= self.max_batch_size:
            raise InvalidObservation(f"expected 1 to {self.max_batch_size} rows, got {count}")
        return [{name: _value(name, array[row]) for name, array in fitted.items()} for row in range(count)]

    def _fitted(self, spec: TensorSpec, array: Array) -> Array:
        """Returns the tensor of an input; raises InvalidObservation where it does not fit."""
        dtype = TEXT if array.dtype.kind == "O" else array.dtype.name
        batch = ("*",) if self.max_batch_size else ()
        sizes = spec.shape
        if sizes == () and array.ndim == len(batch) + 1 and array.shape[-1] == 1:
            array = array.reshape(array.shape[:-1])  # as it is described
        is_fit = not spec.dtype or dtype == spec.dtype
        if sizes is not None:
            wanted = (*([None] if batch else []), *sizes)
            is_fit = is_fit and len(wanted) == array.ndim
            is_fit = is_fit and all(size in (None, got) for size, got in zip(wanted, array.shape, strict=False))
        elif batch:
            is_fit = is_fit and array.ndim > 0
        if not is_fit:
            shown = [*batch, *("*" if size is None else size for size in sizes or ())]
            expected = f"{datatype_of(spec.dtype) if spec.dtype else 'any datatype'} [{', '.join(map(str, shown))}]"
            came = f"{datatype_of(dtype)} {list(array.shape)}"
            raise InvalidObservation(f"input {spec.name!r}: expected {expected}, got {came}")
        return array

    def check_outputs(self, wanted: Sequence[str] | None) -> None:
        """Checks the outputs that a request asks for, as far as the model says what it gives.

        Raises:
            InvalidObservation: naming one that it does not give.
        """
        known = {**{key: key for key in self.output_keys.values()}, **self.output_keys}  # also by the key of a result
        for name in wanted or () if known else ():
            if name not in known:
                raise self._unexpected(name, self.output_keys)

    def _unexpected(self, name: str, known: Mapping[str, Any]) -> InvalidObservation:
        return InvalidObservation(f"unexpected output {name!r}: model {self.name!r} gives {', '.join(known)}")

    def outputs_of(self, results: Sequence[Mapping[str, Any]], wanted: Sequence[str] | None) -> dict[str, Array]:
        """Returns the outputs of a request by name, rows stacked.

        Args:
            results: of its rows.
            wanted: the outputs asked for; None: all.

        Raises:
            InvalidObservation: naming an output that is asked for and that the model does not have.
            ValueError: naming an output that it declares and did not give, or of which rows differ in shape.
        """
        results = [_flat(result) for result in results]
        keys = dict(self.output_keys) or {key: key for key in results[0]}
        if wanted is not None:
            known = {**{key: key for key in results[0]}, **keys}  # also by the key of a result
            for name in wanted:
                if known.get(name) not in results[0]:
                    raise self._unexpected(name, keys)
            keys = {name: known[name] for name in wanted}
        outputs: dict[str, Array] = {}
        for name, key in keys.items():
            if key not in results[0]:
                raise ValueError(f"model {self.name!r} declares {key!r} and gave {', '.join(results[0]) or 'nothing'}")
            rows = [_array(result[key]) for result in results]
            if len({row.shape for row in rows}) > 1:
                raise ValueError(f"output {name!r}: rows of different shapes: {[row.shape for row in rows]}")
            outputs[name] = np.stack(rows) if self.max_batch_size else rows[0]
        return outputs


def _with_axis(spec: TensorSpec) -> TensorSpec:
    """Returns an input without axes with one of size 1, as Triton's models have: its tools send none without axes."""
    return replace(spec, shape=(1,)) if spec.shape == () else spec


def _sizes(spec: TensorSpec) -> list[int]:
    return [-1] if spec.shape is None else [-1 if size is None else size for size in spec.shape]


def _value(name: str, array: Any) -> Any:
    """Returns what a model sees: texts as str, several as lists in the form of their array.

    Raises:
        InvalidObservation: it has texts that are no UTF-8.
    """
    array = np.asarray(array, object if isinstance(array, str) else None)  # a row of texts is one
    if array.dtype.kind != "O":
        return array
    for text in array.flat:
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InvalidObservation(f"input {name!r}: expected texts in UTF-8; other bytes are sent as UINT8")
    return array.reshape(-1)[0] if array.size == 1 else array.tolist()


def _flat(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a result with the keys of maps in it joined by "/", as robots of the SDK have them."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        inner = _flat(value) if isinstance(value, Mapping) else None
        flat.update({key: value} if inner is None else {f"{key}/{one}": part for one, part in inner.items()})
    return flat


def _array(value: Any) -> Array:
    if isinstance(value, str):
        return np.array(value, dtype=object)
    return np.asarray(value)
