"""What the configuration declares of a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from inferential.config.section import Section
from inferential.policies.tensors import read_specs, spec_of, specs_of


class TensorConfig(Section):
    """An input or output of a model, for one robot: without the axis of a batch."""

    dtype: str = ""
    """Its dtype as numpy names it, or string; any where it is empty."""
    shape: list[Annotated[int, Field(ge=-1)]] | None = None
    """Its sizes, -1 where one may vary; any shape where it is not given."""
    optional: bool = False
    """Whether a request may lack it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        spec_of("", self.declared())
        return self

    def declared(self) -> dict[str, Any]:
        """Returns it as `policies.tensors.specs_of` takes it."""
        return {"dtype": self.dtype, "shape": self.shape, "optional": self.optional}


def check_declared(metadata: Mapping[str, Any], inputs: Mapping[str, TensorConfig]) -> None:
    """Checks that a model takes what a configuration declares; one that does not say what it takes may take anything.

    Args:
        metadata: of the model.
        inputs: as declared, by name.

    Raises:
        ValueError: naming an input that it does not take, or takes in another shape.
    """
    taken = {one.name: one for one in read_specs(metadata.get("inputs"))}
    for one in specs_of({name: one.declared() for name, one in inputs.items()} if taken else {}, "inputs"):
        model = taken.get(one.name)
        if model is None:
            raise ValueError(f"inputs: the model takes no {one.name!r}; it takes {', '.join(taken)}")
        if one.shape is None or model.shape is None:
            continue
        if len(one.shape) != len(model.shape) or any(
            size not in (None, wanted) and wanted is not None
            for size, wanted in zip(one.shape, model.shape, strict=True)
        ):
            raise ValueError(f"inputs: {one.name!r}: declared as {one.form}, the model takes {model.form}")


def with_declared(
    metadata: Mapping[str, Any], inputs: Mapping[str, TensorConfig], outputs: Mapping[str, TensorConfig]
) -> dict[str, Any]:
    """Returns what a model says of itself, with the tensors that a configuration declares in place of its own.

    Args:
        metadata: of the model.
        inputs, outputs: as declared, by name; empty: what the model says holds.
    """
    found = dict(metadata)
    for key, declared in (("inputs", inputs), ("outputs", outputs)):
        if declared:
            specs = specs_of({name: one.declared() for name, one in declared.items()}, key)
            found[key] = [one.as_dict() for one in specs]
    if outputs:
        found.pop("output_names", None)  # of a file's outputs
    return found
