"""Builds small .mlpackage folders by hand: nothing here uses edgevit's reader or coremltools' converter."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.compat.coremltools import message_classes

DATA = Path("Data/com.apple.CoreML")
PROGRAM, WEIGHTS = DATA / "model.mlmodel", DATA / "weights/weight.bin"
ROOT = "root-item"
TYPES = {"bool": 1, "string": 2, "fp16": 10, "fp32": 11, "int8": 21, "int32": 23, "int4": 25, "uint8": 31}
_BLOB = {"fp16": 1, "fp32": 2, "uint8": 3, "int8": 4}
_NUMPY = {"float32": "fp32", "float16": "fp16", "int32": "int32", "bool": "bool", "int8": "int8", "uint8": "uint8"}
_FEATURE = {"fp32": 65568, "fp16": 65552, "int32": 131104}


class Builder:
    """A program in the making; `write` puts the package into a folder."""

    def __init__(self, *, opset: str = "CoreML7", version: int = 8, function: str = "main") -> None:
        self.spec = message_classes("Model_pb2").Model()
        self.spec.specificationVersion = version
        self.weights = bytearray(64)  # the file's own header
        self.begin(function, opset)

    def begin(self, function: str, opset: str = "CoreML7") -> None:
        """Start another function."""
        self.function = self.spec.mlProgram.functions[function]
        self.function.opset = opset
        self.block = self.function.block_specializations[opset]

    def input(self, name: str, shape: tuple[int, ...], dtype: str = "fp32", *, describe: bool = True) -> None:
        """An input of the function, and of the model's description."""
        _declare(self.function.inputs.add(), name, shape, dtype)
        if describe:
            _describe(self.spec.description.input.add(), name, shape, dtype)

    def output(self, name: str, shape: tuple[int, ...], dtype: str = "fp32", *, describe: bool = True) -> None:
        """A value that the function returns."""
        self.block.outputs.append(name)
        if describe:
            _describe(self.spec.description.output.add(), name, shape, dtype)

    def const(self, name: str, content: Any, *, blob: bool = False) -> str:
        """A constant, in the weight file if `blob`."""
        array = np.asarray(content)
        dtype = "string" if array.dtype.kind == "U" else _NUMPY[str(array.dtype)]
        operation = self.block.operations.add(type="const")
        _declare(operation.outputs.add(), name, array.shape, dtype)
        value = operation.attributes["val"]
        set_type(value.type, array.shape, dtype)
        if blob:
            value.blobFileValue.fileName = "@model_path/weights/weight.bin"
            value.blobFileValue.offset = self._append(array.tobytes(), _BLOB[dtype])
            return name
        tensor = value.immediateValue.tensor
        field = {"fp32": "floats", "int32": "ints", "bool": "bools", "string": "strings"}.get(dtype)
        if field is None:
            tensor.bytes.values = array.tobytes()
        else:
            getattr(tensor, field).values.extend(array.reshape(-1).tolist())
        return name

    def op(
        self, kind: str, name: str, shape: tuple[int, ...], dtype: str = "fp32", /, **inputs: str | list[str]
    ) -> str:
        """An operation with one result; inputs are names of values."""
        operation = self.block.operations.add(type=kind)
        for key, names in inputs.items():
            for one in [names] if isinstance(names, str) else names:
                operation.inputs[key].arguments.add(name=one)
        _declare(operation.outputs.add(), name, shape, dtype)
        return name

    def write(self, folder: Path) -> Path:
        """The package at `folder`."""
        (folder / DATA / "weights").mkdir(parents=True, exist_ok=True)
        items = {ROOT: {"path": "com.apple.CoreML/model.mlmodel"}, "w": {"path": "com.apple.CoreML/weights"}}
        manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": ROOT}
        (folder / "Manifest.json").write_text(json.dumps(manifest))
        (folder / PROGRAM).write_bytes(self.spec.SerializeToString(deterministic=True))
        (folder / WEIGHTS).write_bytes(self.weights)
        return folder

    def _append(self, data: bytes, code: int) -> int:
        offset = len(self.weights)
        record = struct.pack("<IIQQQ", 0xDEADBEEF, code, len(data), offset + 64, 0)
        self.weights += record.ljust(64, b"\0") + data + bytes(-len(data) % 64)
        return offset


def small(**options: Any) -> Builder:
    """image (1, 3, 8, 8) -> conv -> gelu -> mean -> linear -> logits (1, 4), with labels."""
    rng = np.random.default_rng(0)
    build = Builder(**options)
    build.input("image", (1, 3, 8, 8))
    build.const("kernel", rng.normal(size=(6, 3, 3, 3)).astype(np.float32), blob=True)
    build.const("bias", rng.normal(size=6).astype(np.float32), blob=True)
    build.const("strides", np.array([1, 1], np.int32))
    build.const("pad_type", "valid")
    build.const("pad", np.zeros(4, np.int32))
    build.const("dilations", np.array([1, 1], np.int32))
    build.const("groups", np.int32(1))
    build.const("mode", "EXACT")
    build.const("axes", np.array([2, 3], np.int32))
    build.const("keep", np.bool_(False))
    build.const("head", rng.normal(size=(4, 6)).astype(np.float32), blob=True)
    build.op(
        "conv",
        "features",
        (1, 6, 6, 6),
        x="image",
        weight="kernel",
        bias="bias",
        strides="strides",
        pad_type="pad_type",
        pad="pad",
        dilations="dilations",
        groups="groups",
    )
    build.op("gelu", "activated", (1, 6, 6, 6), x="features", mode="mode")
    build.op("reduce_mean", "pooled", (1, 6), x="activated", axes="axes", keep_dims="keep")
    build.op("linear", "logits", (1, 4), x="pooled", weight="head")
    build.output("logits", (1, 4))
    build.spec.description.metadata.userDefined["edgevit.labels"] = '["ant", "bee", "cat", "dog"]'
    return build


def set_type(declared: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Fill a ValueType."""
    declared.tensorType.dataType = TYPES[dtype]
    declared.tensorType.rank = len(shape)
    for size in shape:
        declared.tensorType.dimensions.add().constant.size = size


def _declare(value: Any, name: str, shape: tuple[int, ...], dtype: str) -> None:
    value.name = name
    set_type(value.type, shape, dtype)


def _describe(feature: Any, name: str, shape: tuple[int, ...], dtype: str) -> None:
    feature.name = name
    feature.type.multiArrayType.dataType = _FEATURE[dtype]
    feature.type.multiArrayType.shape.extend(shape)
