"""Stores equal constants of a saved package once: coremltools writes one for every use, 84 % of them in vain.

An int8 program has a scale and a zero point at every quantize and dequantize; together with strides, pads and axes they
were a tenth of SegNetr-32's package.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.mil import protos
from edgevit.mil.package import body, walk

if TYPE_CHECKING:
    from google.protobuf.message import Message


def share_constants(program_file: Path) -> None:
    """Let every operation read the first of the constants that are equal, in place. Answers stay to the bit."""
    model = protos.load("Model_pb2").Model()
    model.ParseFromString(program_file.read_bytes())
    for function in model.mlProgram.functions.values():
        _share(body(function))
    program_file.write_bytes(model.SerializeToString(deterministic=True))


def _share(block: Message) -> None:
    """In one block and those inside it, which may read its constants and keep their own."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    kept = []
    for operation in block.operations:
        if operation.type == "const" and operation.outputs[0].name not in block.outputs:
            name = operation.outputs[0].name
            same[name] = first.setdefault(_identity(operation), name)
            if same[name] != name:
                continue
        kept.append(operation)
    for operation in walk(block):
        for value in operation.inputs.values():
            for argument in value.arguments:
                if argument.name in same:  # "" where the value stands in the place of a name
                    argument.name = same[argument.name]
    del block.operations[:]
    block.operations.extend(kept)


def _identity(constant: Message) -> bytes:
    """What a constant is but for its name: its type, and its value or where its bytes lie."""
    value = constant.attributes["val"]
    return constant.outputs[0].type.SerializeToString(deterministic=True) + value.SerializeToString(deterministic=True)
