"""Policies from files, as models: `onnx:FILE`, `torchscript:FILE` and `lerobot:FOLDER`.

Modules here are loaded where the model runs, in a worker's own environment too: they need numpy and what reads the
file, nothing of the server.
"""

from __future__ import annotations

from pathlib import PurePath

KINDS = {
    "onnx": "inferential.policies.onnx:open_onnx",
    "torchscript": "inferential.policies.torchscript:open_torchscript",
    "lerobot": "inferential.policies.lerobot:open_lerobot",
}
"""By how a target begins, what is called with the path and `args` to make the model."""

_SUFFIXES = {".onnx": "onnx", ".pt": "torchscript", ".pth": "torchscript", ".ts": "torchscript"}
_SPELLINGS = ("onnxruntime", "ort", "torch", "jit", "pt", *KINDS)


def meant_target(target: str) -> str | None:
    """Returns what a policy's file should have been given as: `onnx:arm.onnx` for `arm.onnx` or `ONNX:arm.onnx`."""
    spelling, separator, path = target.rpartition(":")
    kind = _SUFFIXES.get(PurePath(path).suffix.lower())
    if kind is None or "://" in target or (separator and spelling.lower() not in _SPELLINGS):
        return None
    return None if spelling in KINDS else f"{kind}:{path}"


def split_target(target: str) -> tuple[str, str] | None:
    """Returns the kind and the path of a target like `onnx:FILE`; None for targets of other forms."""
    kind, separator, path = target.partition(":")
    return (kind, path) if separator and kind in KINDS and path and not path.startswith("//") else None
