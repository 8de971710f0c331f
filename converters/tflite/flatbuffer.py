"""The .tflite file: a graph of tensors and operators, written to and read from its flatbuffer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgevit.compat.litert import file_schema
from edgevit.errors import ContractError

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np

_Form = TypeVar("_Form")
IDENTIFIER = b"TFL3"  # at byte 4
SIGNATURE = "serving_default"
_SCHEMA_VERSION = 3
_ALIGNMENT = 16  # bytes; the schema asks it of every buffer, and kernels read weights in place
_DTYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int8": "INT8"}

# Operator -> (its options table or "", operator version: the lowest whose kernel knows the form written here, and that
# of its form on int8 where it has one of its own).
_OPERATORS: dict[str, tuple[str, tuple[int, ...]]] = {
    "ABS": ("", (1,)),
    "ADD": ("AddOptions", (1, 2)),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (1, 2)),
    "BATCH_MATMUL": ("BatchMatMulOptions", (1,)),
    "CONCATENATION": ("ConcatenationOptions", (1, 2)),
    "CONV_2D": ("Conv2DOptions", (1, 3)),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (2, 3)),  # 2: dilation
    "DEQUANTIZE": ("", (3,)),  # 3: from float16
    "DIV": ("DivOptions", (1,)),
    "ELU": ("", (1,)),
    "EXP": ("", (1,)),
    "FULLY_CONNECTED": ("FullyConnectedOptions", (2, 12)),  # 2: keeps the leading axes
    "GELU": ("GeluOptions", (1, 2)),
    "HARD_SWISH": ("", (1,)),
    "LEAKY_RELU": ("LeakyReluOptions", (1,)),
    "LOG": ("", (1,)),
    "LOGISTIC": ("", (1, 2)),
    "MAXIMUM": ("", (1,)),
    "MAX_POOL_2D": ("Pool2DOptions", (1, 2)),
    "MEAN": ("ReducerOptions", (1, 2)),
    "MINIMUM": ("", (1,)),
    "MUL": ("MulOptions", (1, 2)),
    "NEG": ("", (1,)),
    "PAD": ("", (1, 2)),
    "PADV2": ("", (1,)),
    "POW": ("", (1,)),
    "QUANTIZE": ("", (1, 2)),
    "REDUCE_MAX": ("ReducerOptions", (1,)),
    "RELU": ("", (1, 2)),
    "RELU6": ("", (1, 2)),
    "RELU_N1_TO_1": ("", (1,)),
    "RESHAPE": ("ReshapeOptions", (1,)),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", (3,)),  # 3: half-pixel centres
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", (1, 2)),
    "RSQRT": ("", (1,)),
    "SLICE": ("", (1, 2)),
    "SOFTMAX": ("SoftmaxOptions", (1,)),
    "SQRT": ("", (1,)),
    "SUB": ("SubOptions", (1, 2)),
    "SUM": ("ReducerOptions", (1,)),
    "TANH": ("", (1, 2)),
    "TRANSPOSE": ("", (1, 2)),
    "TRANSPOSE_CONV": ("TransposeConvOptions", (3,)),  # 3: with a bias
}
_DEQUANTIZE_CHANNELS = 5  # the version that knows a scale per channel


@dataclass(frozen=True, slots=True)
class Quantization:
    """real = scale * (q - zero_point): one scale, or one for each index of `axis`."""

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


@dataclass(slots=True)
class Tensor:
    """One tensor of the file; `data` makes it a constant, `qparams` say what its integers stand for."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: np.ndarray | None = None
    qparams: Quantization | None = None

    @property
    def values(self) -> np.ndarray:
        """What a constant holds. ContractError for a tensor that is computed."""
        if self.data is None:
            raise ContractError(f"tensor {self.name} is no constant", fix="convert again")
        return self.data


@dataclass(slots=True)
class Operator:
    """One operator; `options` are the fields of its options table, by their names in the schema."""

    name: str
    inputs: list[int]
    output: int
    options: dict[str, Any]


@dataclass(slots=True)
class Graph:
    """What one .tflite file holds: tensors by index, operators in execution order, named ends."""

    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def add_tensor(self, tensor: Tensor) -> int:
        """Append a tensor; returns its index."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def pruned(self) -> Graph:
        """The same graph without operators and tensors that no output needs; indices close up."""
        needed, operators = set(self.outputs), []
        for operator in reversed(self.operators):
            if operator.output in needed:
                needed.update(operator.inputs)
                operators.append(operator)
        kept = sorted(needed | set(self.inputs))
        index = {old: new for new, old in enumerate(kept)}
        return Graph(
            [self.tensors[old] for old in kept],
            [Operator(o.name, [index[i] for i in o.inputs], index[o.output], o.options) for o in reversed(operators)],
            [index[i] for i in self.inputs],
            [index[i] for i in self.outputs],
        )


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a .tflite file declares.

    Inputs and outputs are (name, shape, dtype) of its signature; foreign_ops are custom codes, Flex ops among them;
    half_bytes and single_bytes are the sizes of all its float16 and float32 constants, largest_single the number of
    elements in the largest float32 one.
    """

    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]
    ops: Counter[str]
    foreign_ops: tuple[str, ...]
    half_bytes: int
    single_bytes: int
    largest_single: int


def serialize(graph: Graph, description: str) -> bytes:
    """The bytes of a .tflite file: the same graph gives the same bytes."""
    import flatbuffers

    model = _model(graph, description)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def _model(graph: Graph, description: str) -> Any:
    schema = file_schema()
    codes = sorted({_code(graph, operator) for operator in graph.operators})
    subgraph = schema.SubGraphT()
    subgraph.name = "main"
    buffers = [schema.BufferT()]  # buffer 0 is empty by convention: what tensors without data refer to
    vectors: dict[tuple[str, bytes], int] = {}
    subgraph.tensors = [_tensor(schema, tensor, buffers, vectors) for tensor in graph.tensors]
    subgraph.inputs, subgraph.outputs = graph.inputs, graph.outputs
    subgraph.operators = [
        _operator(schema, operator, codes.index(_code(graph, operator))) for operator in graph.operators
    ]
    model = schema.ModelT()
    model.version = _SCHEMA_VERSION
    model.description = description
    model.operatorCodes = [_operator_code(schema, *code) for code in codes]
    model.subgraphs = [subgraph]
    model.buffers = buffers
    model.signatureDefs = [_signature(schema, graph)]
    return model


def _tensor(schema: ModuleType, tensor: Tensor, buffers: list[Any], vectors: dict[tuple[str, bytes], int]) -> Any:
    table = schema.TensorT()
    table.name = tensor.name
    table.shape = list(tensor.shape)
    table.hasRank = True  # else a shape () would mean an unknown one
    table.type = getattr(schema.TensorType, _DTYPES[tensor.dtype])
    if tensor.qparams is not None:
        table.quantization = _quantization(schema, tensor.qparams, vectors)
    if tensor.data is not None:
        table.buffer = len(buffers)
        buffers.append(_aligned_buffer(schema, tensor.data.tobytes()))
    return table


def _quantization(schema: Any, qparams: Quantization, vectors: dict[tuple[str, bytes], int]) -> Any:
    """The table of a tensor's quantization parameters.

    vectors: where those that were written lie, as equal ones are stored once: the zero points of all channels, eight
    bytes each, would be a tenth of a small file.
    """
    import numpy as np

    def vector(builder: Any, numbers: np.ndarray) -> int:
        key = str(numbers.dtype), numbers.tobytes()
        if key not in vectors:
            vectors[key] = builder.CreateNumpyVector(numbers)
        return vectors[key]

    class SharedVectors(schema.QuantizationParametersT):
        def Pack(self, builder: Any) -> int:  # noqa: N802, the generated code's name
            scales = vector(builder, np.array(qparams.scales, np.float32))
            zero_points = vector(builder, np.full(len(qparams.scales), qparams.zero_point, np.int64))
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scales)
            schema.QuantizationParametersAddZeroPoint(builder, zero_points)
            schema.QuantizationParametersAddQuantizedDimension(builder, qparams.axis)
            return schema.QuantizationParametersEnd(builder)

    return SharedVectors()


def _aligned_buffer(schema: Any, data: bytes) -> Any:
    """A Buffer table that packs its bytes at a multiple of 16, which the generated Pack does not."""

    class AlignedBuffer(schema.BufferT):
        def Pack(self, builder: Any) -> int:  # noqa: N802, the generated code's name
            builder.StartVector(1, len(data), _ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            return schema.BufferEnd(builder)

    return AlignedBuffer()


def _operator(schema: ModuleType, operator: Operator, code: int) -> Any:
    table = schema.OperatorT()
    table.opcodeIndex = code
    table.inputs, table.outputs = operator.inputs, [operator.output]
    options = _OPERATORS[operator.name][0]
    if options:
        table.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        table.builtinOptions = getattr(schema, f"{options}T")()
        for name, value in operator.options.items():
            setattr(table.builtinOptions, name, value)
    return table


def _code(graph: Graph, operator: Operator) -> tuple[str, int]:
    """Name and version of the form of an operator."""
    versions, source = _OPERATORS[operator.name][1], graph.tensors[operator.inputs[0]]
    if operator.name == "DEQUANTIZE" and source.qparams is not None and len(source.qparams.scales) > 1:
        return operator.name, _DEQUANTIZE_CHANNELS
    return operator.name, versions[-1 if source.dtype == "int8" else 0]


def _operator_code(schema: ModuleType, name: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)  # the old field is one byte; 127 means: read the new one
    code.version = version
    return code


def _signature(schema: ModuleType, graph: Graph) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE
    signature.subgraphIndex = 0
    signature.inputs = [_tensor_map(schema, graph, index) for index in graph.inputs]
    signature.outputs = [_tensor_map(schema, graph, index) for index in graph.outputs]
    return signature


def _tensor_map(schema: ModuleType, graph: Graph, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = graph.tensors[index].name, index
    return entry


def read_facts(path: Path) -> FileFacts:
    """What the file declares. Raises ContractError if it is not a whole .tflite file with one subgraph."""
    return _read(path, _facts)


def read_graph(path: Path) -> Graph:
    """The graph of the file, without the operators' options. Raises ContractError as `read_facts` does."""
    return _read(path, _graph)


def _read(path: Path, form: Callable[[ModuleType, Any], _Form]) -> _Form:
    """What `form` makes of the schema and the file's model."""
    data = path.read_bytes()
    if data[4:8] != IDENTIFIER:
        raise ContractError(f"{path} is not a TFLite model (identifier {data[4:8]!r})", fix="convert again")
    schema = file_schema()
    try:
        return form(schema, schema.ModelT.InitFromPackedBuf(data))
    except Exception as error:  # a damaged flatbuffer sends its reader anywhere: each type means the same
        raise ContractError(
            f"{path} is damaged: its flatbuffer cannot be read ({type(error).__name__})",
            fix="copy it again, or convert again",
        ) from error


def _facts(schema: ModuleType, model: Any) -> FileFacts:
    (subgraph,) = model.subgraphs
    (signature,) = model.signatureDefs
    dtypes = {value: name.lower() for value, name in _names(schema.TensorType).items()}
    names = _operator_names(schema, model)
    codes = zip(names, model.operatorCodes, strict=True)
    sizes: dict[str, list[int]] = {"float16": [], "float32": []}  # bytes of each constant
    for tensor in subgraph.tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None:
            sizes.setdefault(dtypes[tensor.type], []).append(len(data))

    def declared(entries: Sequence[Any]) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        tensors = [(entry.name.decode(), subgraph.tensors[entry.tensorIndex]) for entry in entries]
        return tuple((name, tuple(int(size) for size in t.shape), dtypes[t.type]) for name, t in tensors)

    return FileFacts(
        inputs=declared(signature.inputs),
        outputs=declared(signature.outputs),
        ops=Counter(names[operator.opcodeIndex] for operator in subgraph.operators),
        foreign_ops=tuple(sorted((code.customCode or b"?").decode() for name, code in codes if name == "CUSTOM")),
        half_bytes=sum(sizes["float16"]),
        single_bytes=sum(sizes["float32"]),
        largest_single=max(sizes["float32"], default=0) // 4,
    )


def _graph(schema: ModuleType, model: Any) -> Graph:
    (subgraph,) = model.subgraphs
    dtypes = {value: name.lower() for value, name in _names(schema.TensorType).items()}
    names = _operator_names(schema, model)
    return Graph(
        [_stored_tensor(tensor, dtypes[tensor.type], model.buffers[tensor.buffer].data) for tensor in subgraph.tensors],
        [Operator(names[o.opcodeIndex], list(map(int, o.inputs)), int(o.outputs[0]), {}) for o in subgraph.operators],
        list(map(int, subgraph.inputs)),
        list(map(int, subgraph.outputs)),
    )


def _stored_tensor(table: Any, dtype: str, data: np.ndarray | None) -> Tensor:
    """The Tensor of a table; `data` are its bytes, None for what is no constant."""
    shape, qparams, quantization = tuple(map(int, table.shape)), None, table.quantization
    if quantization is not None and quantization.scale is not None and len(quantization.scale):
        scales = tuple(map(float, quantization.scale))
        zero_points = set(map(int, quantization.zeroPoint))
        if len(zero_points) != 1:
            raise ValueError(f"{table.name} has a zero point for each channel")
        qparams = Quantization(scales, zero_points.pop(), quantization.quantizedDimension)
    stored = None if data is None else data.view(dtype).reshape(shape)
    return Tensor(table.name.decode(), shape, dtype, stored, qparams)


def _operator_names(schema: ModuleType, model: Any) -> list[str]:
    """By index of operator code."""
    known = _names(schema.BuiltinOperator)
    return [known[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]


def _names(enum: type) -> dict[int, str]:
    """Member names of an enumeration of the schema, by value."""
    return {value: name for name, value in vars(enum).items() if isinstance(value, int)}
