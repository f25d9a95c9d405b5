"""What the graph of a TorchScript module does that robots must not share: what it keeps in itself, and training mode.

A recurrent policy may keep its hidden state in a buffer, as those that rsl_rl and legged_gym export do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_PARTS = frozenset(
    ("aten::__getitem__", "aten::get", "aten::values", "prim::ListUnpack", "prim::TupleIndex", "prim::TupleUnpack")
)
"""What gives parts of a list, a map or a tuple."""
_DROPOUTS = ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_TRAINING: dict[str, tuple[int | None, int | None]] = {
    "aten::batch_norm": (5, None),
    "aten::rrelu": (3, None),
    "aten::scaled_dot_product_attention": (None, 4),
    **{f"aten::{name}": (2, 1) for name in _DROPOUTS},
    **{f"aten::{name}": (6, 5) for name in _RECURRENT},
}
"""Of operations that run in another way in training: which argument says that, and which how much is dropped."""


def kept_in(module: Any) -> list[str]:
    """Returns the attributes that `forward()` changes in evaluation mode, by their paths, as "rnn.hidden".

    They are set, written to, whatever view on them is, or hold what is written to, as a list of tensors.
    """
    graph = module.inlined_graph
    aliases = graph.alias_db(isFrozen=True)  # else any two attributes might be one
    paths: dict[str, str] = {}  # of values that are attributes, or parts of them
    found: dict[str, None] = {}
    for node in _nodes(graph):
        kind, inputs = node.kind(), list(node.inputs())
        of = paths.get(inputs[0].debugName(), "") if inputs else ""
        if kind == "prim::GetAttr":
            of = f"{of}.{node.s('name')}".lstrip(".")
        elif kind == "prim::SetAttr":
            found[f"{of}.{node.s('name')}".lstrip(".")] = None
            continue
        elif kind not in _PARTS or not of:
            continue
        for value in node.outputs():
            paths[value.debugName()] = of
            if aliases.has_writers(value):
                found[of] = None
    return list(found)


def trains(module: Any) -> str:
    """Returns the operation that `forward()` always runs as in training, as "dropout"; "" where there is none.

    `torch.jit.trace` writes the mode of its moment into the file, which `eval()` changes no more.
    """
    graph = module.inlined_graph
    for node in _nodes(graph):
        flag, dropped = _TRAINING.get(node.kind(), (None, None))
        if flag is None and dropped is None:
            continue
        inputs = list(node.inputs())
        # An argument that is no constant, which scripted modules have, depends on eval().
        if (flag is None or inputs[flag].toIValue() is True) and (dropped is None or inputs[dropped].toIValue()):
            return str(node.kind()).partition("::")[2]
    return ""


def _nodes(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a graph, which is kept by the caller, without what runs in training mode alone."""
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
