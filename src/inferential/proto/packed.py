"""Arrays in a payload as a message carries it: they pass on as they are, and are opened where one is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from inferential.proto.cache.templates import Signature
from inferential.proto.tensors import Array, Buffer, offsets_of, view_checked


class Packing:
    """Where arrays lie in a payload, as `tensors.gather` lays them out; two are equal only if they are the same object.

    Attributes:
        signature: of the arrays.
        shapes: by key.
        size: bytes of the payload.
    """

    __slots__ = ("offsets", "shapes", "signature", "size")

    def __init__(self, signature: Signature, offsets: Sequence[int], size: int) -> None:
        self.signature: Signature = signature
        self.shapes: dict[str, tuple[int, ...]] = {key: shape for key, _, shape in signature}
        self.offsets: Sequence[int] = offsets
        self.size: int = size

    @classmethod
    def of(cls, arrays: Sequence[tuple[str, np.dtype[Any], tuple[int, ...], int]]) -> Packing | None:
        """Returns the packing of arrays, given by key, dtype, shape and offset; None where they lie otherwise."""
        signature = tuple((key, dtype, shape) for key, dtype, shape, _ in arrays)
        offsets, size = offsets_of(signature)
        if offsets != [offset for *_, offset in arrays] or len({key for key, *_ in arrays}) < len(arrays):
            return None
        return cls(signature, offsets, size)


class PackedArrays(Mapping[str, Array]):
    """Arrays by key, as a map of them would be.

    Args:
        packing: where they lie.
        payload: of the size that it says.
    """

    __slots__ = ("_opened", "packing", "payload")

    def __init__(self, packing: Packing, payload: Buffer) -> None:
        self.packing: Packing = packing
        self.payload: Buffer = payload
        self._opened: dict[str, Array] | None = None

    def __getitem__(self, key: str) -> Array:
        if self._opened is None:
            places = zip(self.packing.signature, self.packing.offsets, strict=True)
            self._opened = {
                key: view_checked(self.payload, dtype, shape, offset) for (key, dtype, shape), offset in places
            }
        return self._opened[key]

    def __contains__(self, key: object) -> bool:
        return key in self.packing.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.packing.shapes)

    def __len__(self) -> int:
        return len(self.packing.shapes)
