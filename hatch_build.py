"""Build hook: compiles the protobuf schema into the package.

It does nothing else: the generated files are never committed and never edited.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTO_DIR = Path("src/inferential/proto")


def compile_schema(root: Path) -> None:
    """Writes inferential_pb2.py and its stub beside the schema under `root`."""
    import grpc_tools
    from grpc_tools import protoc

    out = root / PROTO_DIR
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{out}",
            f"-I{well_known}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            str(out / "inferential.proto"),
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc failed with status {status} on {out / 'inferential.proto'}")
    _complete_types(out / "inferential_pb2.pyi")


def _complete_types(stub: Path) -> None:
    """Writes what protoc leaves out: the types of the keys and values of mappings."""
    text = stub.read_text(encoding="utf-8")
    text = re.sub(r"_Mapping(?=[],])", "_Mapping[str, _Any]", text)
    text = text.replace("from typing import ClassVar", "from typing import Any as _Any, ClassVar", 1)
    stub.write_text(text, encoding="utf-8")


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs before every wheel and editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compile_schema(Path(self.root))


if __name__ == "__main__":
    compile_schema(Path(__file__).parent)
