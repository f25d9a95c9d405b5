"""Seeds from the corpus, and Hypothesis' mutations of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
FOUND = "found-"
"""Begins the names of inputs that failed once: they stay, as tests."""
_SIZES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FF,
    0x800,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
_MOST_EDITS = 6


@cache
def seeds(target: str) -> list[bytes]:
    """Returns the inputs of a target's folder, in the order of their names."""
    return [path.read_bytes() for path in sorted((CORPUS / target).glob("*.bin"))]


@st.composite
def mutated(draw: st.DrawFn, target: str) -> bytes:
    """Draws a seed with some of its bytes changed, left out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(seeds(target))))
    for _ in range(draw(st.integers(0, _MOST_EDITS))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(("set", "flip", "insert", "delete", "double", "size", "splice")))
        if kind == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 32))]
        elif kind == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 300))]
        elif kind == "size":
            width, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("big", "little")))
            data[at : at + width] = (draw(st.sampled_from(_SIZES)) % 256**width).to_bytes(width, order)
        elif kind == "splice":
            other = draw(st.sampled_from(seeds(target)))
            data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)
