"""Removes what a saved package stores without need: constants that are written once for every use, and long names.

An int8 program has a scale and a zero point at every quantize and dequantize; with strides, pads and axes they were a
tenth of SegNetr-32's package, 84 % of them duplicates. Half of the rest were names: each is written where its value is
made, once more as an attribute of the operation, and wherever it is read.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.compat.coremltools import message_classes
from edgevit.mil.package import body, walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

_HALF_SUFFIX = "_cast_fp16"  # what coremltools adds to a name where it computes in fp16
# Operations whose names carry no information, and the prefix of their new names. Layers keep the names of their nodes.
_NAMELESS = {
    "const": "c",
    "dequantize": "d",
    "constexpr_affine_dequantize": "w",
    "constexpr_blockwise_shift_scale": "w",
}


def slim(program_file: Path) -> None:
    """Let every operation use the first of several equal constants, and shorten names, in place.

    Outputs stay bit-exact.
    """
    model = message_classes("Model_pb2").Model()
    model.ParseFromString(program_file.read_bytes())
    for function in model.mlProgram.functions.values():
        _share(body(function))
        _shorten(body(function), {given.name for given in function.inputs})
    program_file.write_bytes(model.SerializeToString(deterministic=True))


def _share(block: Message) -> None:
    """In one block and those inside it, which may use its constants and keep their own."""
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
    _rename_readings(block, same)
    del block.operations[:]
    block.operations.extend(kept)


def _identity(constant: Message) -> bytes:
    """What a constant is but for its name: its type, and its value or where its bytes lie."""
    value = constant.attributes["val"]
    return constant.outputs[0].type.SerializeToString(deterministic=True) + value.SerializeToString(deterministic=True)


def _shorten(block: Message, inputs: set[str]) -> None:
    """Give values that are no layer a letter and a number, and the rest their node's name; outputs keep theirs."""
    operations = list(walk(block))
    taken = inputs.union(output.name for operation in operations for output in operation.outputs)
    returned = {*block.outputs, *(name for one in operations for inner in one.blocks for name in inner.outputs)}
    numbers = {letter: count() for letter in _NAMELESS.values()}
    renamed: dict[str, str] = {}
    for operation in operations:
        if len(operation.outputs) != 1 or operation.outputs[0].name in returned:
            continue
        output = operation.outputs[0]
        letter = _NAMELESS.get(operation.type)
        short = f"{letter}{next(numbers[letter])}" if letter else output.name.removesuffix(_HALF_SUFFIX)
        if short in taken:
            continue
        taken.add(short)
        renamed[output.name] = short
        if "name" in operation.attributes:
            operation.attributes["name"].immediateValue.tensor.strings.values[:] = [short]
        output.name = short
    _rename_readings(block, renamed)


def _rename_readings(block: Message, names: Mapping[str, str]) -> None:
    for operation in walk(block):
        for value in operation.inputs.values():
            for argument in value.arguments:
                if argument.name in names:  # "" where the value stands in the place of a name
                    argument.name = names[argument.name]
