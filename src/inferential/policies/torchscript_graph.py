"""What the graph of a TorchScript module does that robots must not share: what it keeps in itself, and training mode.

A recurrent policy may keep its hidden state in a buffer, as those that rsl_rl and legged_gym export do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        *("select", "slice", "view", "reshape", "squeeze", "unsqueeze", "expand", "expand_as", "detach", "t"),
        *("transpose", "permute", "narrow", "alias", "flatten", "view_as"),
    )
)
_TRAINING_ARGUMENT = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::alpha_dropout": 2, "aten::feature_dropout": 2}


def kept_in(module: Any) -> list[str]:
    """Returns the attributes that `forward()` changes in evaluation mode, by their paths, as "rnn.hidden"."""
    paths: dict[str, str] = {}  # of values that are attributes, or views on them
    found: dict[str, None] = {}
    for node in _nodes(module):
        kind, inputs = node.kind(), list(node.inputs())
        of = paths.get(inputs[0].debugName(), "") if inputs else ""
        if kind == "prim::GetAttr":
            paths[node.output().debugName()] = f"{of}.{node.s('name')}".lstrip(".")
        elif kind == "prim::SetAttr":
            found[f"{of}.{node.s('name')}".lstrip(".")] = None
        elif kind in _VIEWS and of:
            paths[node.output().debugName()] = of
        elif kind.endswith("_") and not kind.endswith("__") and of:
            found[of] = None
    return list(found)


def trains(module: Any) -> str:
    """Returns the operation that `forward()` always runs as in training, as "dropout"; "" where there is none.

    `torch.jit.trace` writes the mode of its moment into the file, which `eval()` changes no more.
    """
    for node in _nodes(module):
        at = _TRAINING_ARGUMENT.get(node.kind())
        if at is not None and list(node.inputs())[at].toIValue() is True:
            return str(node.kind()).partition("::")[2]
    return ""


def _nodes(module: Any) -> Iterator[Any]:
    """Yields the nodes of `forward()` and all that it calls, without what runs in training mode alone."""
    graph = module.inlined_graph  # its parts are gone with it
    blocks = [graph]
    while blocks:
        for node in blocks.pop().nodes():
            yield node
            inner = list(node.blocks())
            if node.kind() == "prim::If":
                condition = next(node.inputs()).node()
                if condition.kind() == "prim::GetAttr" and condition.s("name") == "training":
                    inner = inner[1:]
            blocks += inner
