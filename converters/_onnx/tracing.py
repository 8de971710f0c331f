"""An .onnx file whose inner values are outputs too: the same operators in the same runtime, with more to read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from converters._onnx.export import export_onnx
from converters._onnx.model import read_model
from edgevit.errors import ContractError
from edgevit.program import Program

if TYPE_CHECKING:
    from onnx import ModelProto


def traced_model(path: Path, program: Program, nodes: Sequence[str]) -> tuple[ModelProto, tuple[str, ...]]:
    """The file at `path` with the values of `nodes` as outputs, and which of them it has: names are the program's.

    Raises ContractError if the file is not what this program becomes: then its values could be other ones.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgevit-onnx-") as folder:
        again = Path(folder, path.name)
        export_onnx(program, again)
        if again.read_bytes() != path.read_bytes():
            raise ContractError(
                f"{path} is not what this version of edgevit makes of its checkpoint",
                hint="convert again, then debug what that gives",
            )
    model = read_model(path)
    made = {name for node in model.graph.node for name in node.output}
    own = {output.name for output in model.graph.output}
    there = tuple(node for node in nodes if node in made - own)
    model.graph.output.extend(onnx.ValueInfoProto(name=node) for node in there)
    return model, there
