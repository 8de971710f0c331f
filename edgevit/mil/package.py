"""Reads an .mlpackage: manifest, program and weights, straight from its files and never writing to them.

Nothing in a package is trusted: every size is compared with the bytes that are really there before memory is
taken for it, and every path must stay inside the package. What does not add up is a ContractError that names
the file and the place.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.compat.coremltools import message_classes
from edgevit.errors import ContractError

if TYPE_CHECKING:
    from google.protobuf.message import Message

MANIFEST = "Manifest.json"
MAX_MANIFEST_BYTES = 1 << 20  # real ones have under 1 KiB
# Real programs stay far below: constants of more than a few values are in the weight file. Parsing takes
# up to some thirty times the bytes of a file made of empty messages.
MAX_PROGRAM_BYTES = 64 << 20
MAX_ELEMENTS = (1 << 31) - 1  # of one tensor; indices in ML Programs are int32
MAX_RANK = 16  # to read; Core ML runs rank 5
_MODEL_PATH = "@model_path/"
_UNPACK_VALUES = 1 << 20  # sub-byte values unpacked at a time; a multiple of 8, so that pieces start on bytes
_INLINE_FORMS = {"bool": ("bools",), "string": ("strings",)}  # fields of TensorValue that may hold a type
_INLINE_NUMBERS = ("floats", "doubles", "ints", "longInts", "bytes")
_FIX = "convert or copy the package again"


@dataclass(frozen=True, slots=True)
class DataType:
    """How one MIL element type is stored. blob: its code in weight files, None where it cannot be there."""

    name: str
    bits: int
    numpy: str  # what it becomes here; little-endian
    blob: int | None = None

    @property
    def packed(self) -> bool:
        """Several values share a byte."""
        return self.bits < 8

    def stored_bytes(self, count: int) -> int:
        """Bytes that `count` values take in a file."""
        return -(-count * self.bits // 8)


# By number of MIL_pb2.DataType. bool and string are never in weight files.
DATA_TYPES = {
    1: DataType("bool", 8, "?"),
    2: DataType("string", 8, "O"),
    10: DataType("fp16", 16, "<f2", 1),
    11: DataType("fp32", 32, "<f4", 2),
    12: DataType("fp64", 64, "<f8"),
    21: DataType("int8", 8, "<i1", 4),
    22: DataType("int16", 16, "<i2", 6),
    23: DataType("int32", 32, "<i4", 14),
    24: DataType("int64", 64, "<i8"),
    25: DataType("int4", 4, "<i1", 8),
    31: DataType("uint8", 8, "<u1", 3),
    32: DataType("uint16", 16, "<u2", 7),
    33: DataType("uint32", 32, "<u4", 15),
    34: DataType("uint64", 64, "<u8"),
    35: DataType("uint4", 4, "<u1", 11),
    36: DataType("uint2", 2, "<u1", 10),
    37: DataType("uint1", 1, "<u1", 9),
    38: DataType("uint6", 6, "<u1", 13),
    39: DataType("uint3", 3, "<u1", 12),
}


# Of the model's description, by their numbers in FeatureTypes_pb2: colour spaces of images, types of arrays.
COLORS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
ARRAY_TYPES = {65568: "float32", 65552: "float16", 65600: "float64", 131104: "int32", 131080: "int8"}


class WeightFile:
    """One mapped weight file: typed values at given offsets."""

    RECORD = struct.Struct("<IIQQQ")  # marker, type code, bytes of data, offset of data, padding bits
    RECORD_BYTES = 64
    MARKER = 0xDEADBEEF

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        # An empty file cannot be mapped.
        self._bytes = np.memmap(path, np.uint8, mode="r") if self.size else np.empty(0, np.uint8)
        self._decoded: dict[tuple[int, str, int], np.ndarray] = {}
        # Records that overlap could ask for the same bytes again and again; one bit each in uint8 is the honest worst.
        self._budget = 8 * self.size

    def stored(self, offset: int, kind: DataType, count: int) -> np.ndarray:
        """The bytes of `count` values whose record is at `offset`, not copied. Raises ContractError."""
        if offset + self.RECORD_BYTES > self.size:
            raise self._error(offset, f"the file ends at byte {self.size}; it was cut off, or the offset is wrong")
        marker, code, size, start, _ = self.RECORD.unpack_from(self._bytes.data, offset)
        if marker != self.MARKER:
            raise self._error(offset, "no weight record starts there")
        if code != kind.blob:
            raise self._error(offset, f"its record has type code {code}, the program reads {kind.name}")
        if size != kind.stored_bytes(count):
            wanted = kind.stored_bytes(count)
            raise self._error(offset, f"{size} bytes are stored, {count} values of {kind.name} take {wanted}")
        if start + size > self.size:
            raise self._error(offset, f"its data would end at byte {start + size}, the file ends at {self.size}")
        return self._bytes[start : start + size]

    def read(self, offset: int, kind: DataType, count: int) -> np.ndarray:
        """Those values as a flat array, decoded once."""
        key = (offset, kind.name, count)
        if key not in self._decoded:
            stored = self.stored(offset, kind, count)
            self._budget -= count * np.dtype(kind.numpy).itemsize
            if self._budget < 0:
                raise self._error(offset, "weights overlap so much that they exceed the file many times over")
            self._decoded[key] = decode(stored, kind, count)
        return self._decoded[key]

    def _error(self, offset: int, reason: str) -> ContractError:
        return ContractError(f"{self.path}: weight at offset {offset}: {reason}", fix=_FIX)


class Package:
    """An opened ML Program: `spec` is the Model message, `functions` its MIL functions by name."""

    def __init__(self, path: Path, program: Path, spec: Message) -> None:
        self.path = path
        self.program = program
        self.spec = spec
        self.functions: dict[str, Message] = dict(spec.mlProgram.functions)
        self._weights: dict[str, WeightFile] = {}

    def constant(self, value: Message) -> np.ndarray | np.generic | str | bool | list | dict:
        """What a MIL Value holds, inline or in a weight file.

        Tensors become arrays of the declared shape (strings: dtype object; sub-byte integers: int8 or uint8), at
        rank 0 a str, a bool or a numpy scalar; lists and tuples become lists, dictionaries dicts. Arrays may be
        shared: do not write into them. Raises ContractError.
        """
        form = value.WhichOneof("value")
        if form == "blobFileValue":
            return self._from_file(value)
        if form != "immediateValue":
            raise self._error("a constant has no value")
        inline = value.immediateValue
        match inline.WhichOneof("value"):
            case "tensor":
                return self._from_tensor(inline.tensor, value.type)
            case "list":
                return [self.constant(item) for item in inline.list.values]
            case "tuple":
                return [self.constant(item) for item in inline.tuple.values]
            case "dictionary":
                return {self._key(pair.key): self.constant(pair.value) for pair in inline.dictionary.values}
        raise self._error("a constant has no value")

    def check_constant(self, value: Message) -> None:
        """What `constant` would refuse about a weight in a file is refused, without decoding it."""
        if value.WhichOneof("value") == "blobFileValue":
            kind, shape = self.tensor_type(value.type)
            self.weight_file(value).stored(value.blobFileValue.offset, kind, math.prod(shape))

    def weight_file(self, value: Message) -> WeightFile:
        """The file that a Value with a blobFileValue points into."""
        name = value.blobFileValue.fileName
        if name not in self._weights:
            if not name.startswith(_MODEL_PATH):
                raise self._error(f"weight file {name!r} does not start with {_MODEL_PATH}")
            self._weights[name] = WeightFile(_inside(self.program.parent, name[len(_MODEL_PATH) :], self.program))
        return self._weights[name]

    def weight_files(self) -> tuple[WeightFile, ...]:
        """Files that constants were read from so far."""
        return tuple(self._weights.values())

    def tensor_type(self, declared: Message) -> tuple[DataType, tuple[int, ...]]:
        """Element type and shape of a ValueType that must be a tensor of fixed shape."""
        if declared.WhichOneof("type") != "tensorType":
            raise self._error("a constant that is no tensor is stored as one")
        tensor = declared.tensorType
        kind = DATA_TYPES.get(tensor.dataType)
        if kind is None:
            raise self._error(f"element type {tensor.dataType} is not known")
        if any(dimension.WhichOneof("dimension") != "constant" for dimension in tensor.dimensions):
            raise self._error("a constant has no fixed shape")
        _check_shape(tensor, str(self.program))
        return kind, tuple(dimension.constant.size for dimension in tensor.dimensions)

    def _from_file(self, value: Message) -> np.ndarray | np.generic:
        kind, shape = self.tensor_type(value.type)
        flat = self.weight_file(value).read(value.blobFileValue.offset, kind, math.prod(shape))
        return flat.reshape(shape)[()]

    def _from_tensor(self, tensor: Message, declared: Message) -> np.ndarray | np.generic | str | bool:
        kind, shape = self.tensor_type(declared)
        form, count = tensor.WhichOneof("value"), math.prod(shape)
        stored = getattr(tensor, form).values if form else ()  # no values at all: an empty tensor
        if form and form not in _INLINE_FORMS.get(kind.name, _INLINE_NUMBERS):
            raise self._error(f"a constant of type {kind.name} is stored as {form}")
        expected = kind.stored_bytes(count) if form == "bytes" else count
        if len(stored) != expected:
            raise self._error(f"a constant {kind.name} {shape} needs {expected} stored values, {len(stored)} are there")
        if form == "bytes":
            flat = decode(np.frombuffer(bytes(stored), np.uint8), kind, count)
        else:
            flat = self._converted(stored, kind, count)
        if shape:
            return flat.reshape(shape)
        scalar = flat[0]
        return bool(scalar) if kind.name == "bool" else scalar

    def _converted(self, values: Any, kind: DataType, count: int) -> np.ndarray:
        try:
            return np.fromiter(values, np.dtype(kind.numpy), count)
        except (OverflowError, TypeError, ValueError) as error:
            raise self._error(f"values of a constant do not fit {kind.name}: {error}") from error

    def _key(self, value: Message) -> Any:
        key = self.constant(value)
        if isinstance(key, (np.ndarray, list, dict)):
            raise self._error("a dictionary key is no scalar")
        return key

    def _error(self, reason: str) -> ContractError:
        return ContractError(f"{self.program}: {reason}", fix=_FIX)


def open_package(path: str | Path) -> Package:
    """Read an .mlpackage folder that holds an ML Program. Raises ContractError; never writes.

    Names, shapes and references of the whole program are checked here; a weight when it is first used.
    """
    folder = Path(path)
    program = _program_path(folder)
    package = Package(folder, program, _parse(program))
    for name, function in package.functions.items():
        if not name.isprintable():
            raise ContractError(f"{program}: a function is named {name[:80]!r}", fix=_FIX)
        _check_function(function, f"{program}: function {name[:80]}")
    return package


def body(function: Message) -> Message:
    """The block of a MIL function that is in force: the one of its declared op set."""
    return function.block_specializations[function.opset]


def walk(block: Message) -> Iterator[Message]:
    """Every operation of a block and of the blocks inside it, in program order."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from walk(inner)


def sizes_of(tensor: Message) -> tuple[int | None, ...]:
    """The shape of a TensorType, None where a size is known at run time only."""
    return tuple(
        dimension.constant.size if dimension.WhichOneof("dimension") == "constant" else None
        for dimension in tensor.dimensions
    )


def computes_in(operation: Message, data_type: int) -> bool:
    """Whether a result has this element type; casts only convert, and constexpr ops unpack weights."""
    if operation.type == "cast" or operation.type.startswith("constexpr_"):
        return False
    return any(output.type.tensorType.dataType == data_type for output in operation.outputs)


def decode(stored: np.ndarray, kind: DataType, count: int) -> np.ndarray:
    """Stored bytes (uint8) to `count` values in memory of their own."""
    if not kind.packed:
        return np.frombuffer(bytearray(stored), kind.numpy)
    values = np.empty(count, np.uint8)
    for start in range(0, count, _UNPACK_VALUES):
        piece = values[start : start + _UNPACK_VALUES]
        first = start * kind.bits // 8
        bits = np.unpackbits(stored[first : first + kind.stored_bytes(len(piece))], bitorder="little")
        piece[:] = np.packbits(bits[: len(piece) * kind.bits].reshape(len(piece), kind.bits), 1, "little")[:, 0]
    if kind.name.startswith("int"):
        sign = 1 << (kind.bits - 1)
        return (values ^ sign).view(np.int8) - np.int8(sign)
    return values


def _program_path(folder: Path) -> Path:
    """The model file that Manifest.json names as root."""
    manifest = folder / MANIFEST
    if not manifest.is_file() or manifest.is_symlink():
        raise ContractError(f"{folder} is no .mlpackage: it has no {MANIFEST}", fix="give the package folder itself")
    if (size := manifest.stat().st_size) > MAX_MANIFEST_BYTES:
        raise ContractError(f"{manifest} has {size} bytes, at most {MAX_MANIFEST_BYTES} are read", fix=_FIX)
    try:
        document = json.loads(manifest.read_bytes())
        root = document["itemInfoEntries"][document["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, RecursionError) as error:
        raise ContractError(f"{manifest} is no JSON document: {str(error)[:200]}", fix=_FIX) from error
    except (KeyError, TypeError, IndexError) as error:
        raise ContractError(f"{manifest} does not say which item is the root model", fix=_FIX) from error
    if not isinstance(root, str):
        raise ContractError(f"{manifest}: the root model's path is no text", fix=_FIX)
    return _inside(folder / "Data", root, manifest)


def _inside(folder: Path, relative: str, named_by: Path) -> Path:
    """A regular file below `folder`, reached without "..", absolute paths or links."""
    shown = relative[:200]
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts or "\\" in relative or "\0" in relative:
        raise ContractError(f"{named_by} names {shown!r}, which is not a path inside the package", fix=_FIX)
    path = folder
    try:
        for part in parts:
            path = path / part
            if path.is_symlink():
                raise ContractError(f"{named_by} names {shown!r}, and {path} is a link", fix="replace it by the file")
        if not path.is_file():
            raise ContractError(f"{named_by} names {shown!r}, but {path} is no file", fix=_FIX)
    except (OSError, ValueError) as error:  # a name too long, or one that the file system cannot hold
        raise ContractError(f"{named_by} names {shown!r}: {error}", fix=_FIX) from error
    return path


def _parse(program: Path) -> Message:
    if (size := program.stat().st_size) > MAX_PROGRAM_BYTES:
        raise ContractError(f"{program} has {size} bytes, at most {MAX_PROGRAM_BYTES} are read", fix=_FIX)
    model = message_classes("Model_pb2").Model()
    from google.protobuf.message import DecodeError

    try:
        model.ParseFromString(program.read_bytes())
    except (OSError, DecodeError) as error:  # deep nesting too: the parser stops at 100 levels
        raise ContractError(f"{program} is no Core ML model: {error}", fix=_FIX) from error
    if model.WhichOneof("Type") != "mlProgram":
        kind = model.WhichOneof("Type") or "nothing"
        raise ContractError(f"{program} holds {kind}, not an ML Program", fix="convert with iOS15 or newer as target")
    if not model.mlProgram.functions:
        raise ContractError(f"{program} holds an ML Program without functions", fix=_FIX)
    return model


def _check_function(function: Message, where: str) -> None:
    if function.opset not in function.block_specializations:
        raise ContractError(f"{where} has no block for its op set {function.opset[:80]!r}", fix=_FIX)
    known: set[str] = set()
    _declare(function.inputs, known, where)
    for opset, block in function.block_specializations.items():
        _check_block(block, (known,), f"{where}, {opset[:80]}")


def _check_block(block: Message, outer: tuple[set[str], ...], where: str) -> None:
    """Every value is defined before its use, which rules cycles out, and once; every shape is believable.

    outer: the names that the blocks around this one have defined so far.
    """
    own: set[str] = set()
    scopes = (*outer, own)
    _declare(block.inputs, own, where)
    for operation in block.operations:
        if not operation.type.isprintable():
            raise ContractError(f"{where}: an op has the type {operation.type[:80]!r}", fix=_FIX)
        place = f"{where}, {operation.type[:80]} {_first_output(operation)}".rstrip()
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name" and not any(binding.name in names for names in scopes):
                    raise ContractError(f"{place}: uses {binding.name[:80]!r} before it is defined", fix=_FIX)
        for inner in operation.blocks:
            _check_block(inner, scopes, place)
        _declare(operation.outputs, own, place)
    for name in block.outputs:
        if not any(name in names for names in scopes):
            raise ContractError(f"{where}: returns {name[:80]!r}, which nothing defines", fix=_FIX)


def _first_output(operation: Message) -> str:
    return repr(operation.outputs[0].name[:80]) if operation.outputs else ""


def _declare(values: Any, own: set[str], where: str) -> None:
    """Add the names of new values to `own`, the names of their block, after a look at their types."""
    for value in values:
        if not value.name.isprintable():
            raise ContractError(f"{where}: a value is named {value.name[:80]!r}", fix=_FIX)
        if value.name in own:
            raise ContractError(f"{where}: {value.name[:80]!r} is defined twice", fix=_FIX)
        own.add(value.name)
        _check_type(value.type, f"{where}: {value.name[:80]!r}")


def _check_type(declared: Message, where: str) -> None:
    form = declared.WhichOneof("type")
    if form == "stateType":
        _check_type(declared.stateType.wrappedType, where)
    elif form == "tensorType":
        _check_shape(declared.tensorType, where)


def _check_shape(tensor: Message, where: str) -> None:
    """Refuse more elements than an index can count; a dimension of 0 does not excuse the others."""
    sizes = [item.constant.size or 1 for item in tensor.dimensions if item.WhichOneof("dimension") == "constant"]
    if len(tensor.dimensions) > MAX_RANK or math.prod(sizes) > MAX_ELEMENTS:
        shown = " x ".join(str(size) for size in sizes[:8])
        raise ContractError(f"{where} has the absurd shape {shown}, rank {len(tensor.dimensions)}", fix=_FIX)
