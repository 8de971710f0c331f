"""Ways to damage a Core ML artifact so that only numerics and lint notice; `benchmarks.coreml_mutations` runs them."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgevit.artifacts.artifact import file_entries
from edgevit.compat.coremltools import message_classes
from edgevit.contract.manifest import read_manifest

PROGRAM = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
_TYPES = {"int32": (23, "ints"), "float32": (11, "floats"), "bool": (1, "bools"), "str": (2, "strings")}


class NotApplicableError(Exception):
    """The program has nothing that this damage could hit."""


class Subject:
    """One artifact folder under the knife: its program, its weight bytes, and how to write them back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.package = folder / self.manifest.entry
        self.spec = message_classes("Model_pb2").Model()
        self.spec.ParseFromString((self.package / PROGRAM).read_bytes())
        self.weights = bytearray((self.package / WEIGHTS).read_bytes())
        self.function = self.spec.mlProgram.functions["main"]
        self.block = self.function.block_specializations[self.function.opset]

    def save(self) -> None:
        """Write program and weights."""
        (self.package / PROGRAM).write_bytes(self.spec.SerializeToString(deterministic=True))
        (self.package / WEIGHTS).write_bytes(self.weights)

    def rehash(self) -> None:
        """Make the artifact's manifest agree with the damaged files."""
        dataclasses.replace(self.manifest, files=file_entries(self.folder)).write(self.folder)

    def find(self, kind: str, *keys: str, which: int = 0, test: Callable[[Any], bool] = lambda _: True) -> Any:
        """An op of this type that has these inputs."""
        hits = [o for o in self.block.operations if o.type == kind and all(k in o.inputs for k in keys) and test(o)]
        if len(hits) <= which:
            raise NotApplicableError(kind)
        return hits[which]

    def source(self, operation: Any, key: str) -> str:
        """Name of the value behind an input."""
        return operation.inputs[key].arguments[0].name

    def rebind(self, operation: Any, key: str, name: str) -> None:
        """Let an input take another value."""
        operation.inputs[key].arguments[0].name = name

    def parameter(self, operation: Any, key: str) -> np.ndarray:
        """A small constant behind an input."""
        tensor = self._constant(self.source(operation, key)).immediateValue.tensor
        return np.array(getattr(tensor, tensor.WhichOneof("value")).values)

    def set_parameter(self, operation: Any, key: str, content: Any) -> None:
        """Give one op a constant of its own: the converter lets ops share theirs."""
        array = np.asarray(content)
        name = f"damaged_{key}"
        constant = message_classes("MIL_pb2").Operation(type="const")
        output = constant.outputs.add(name=name)
        code, field = _TYPES["str" if array.dtype.kind == "U" else str(array.dtype)]
        output.type.tensorType.dataType, output.type.tensorType.rank = code, array.ndim
        for size in array.shape:
            output.type.tensorType.dimensions.add().constant.size = size
        constant.attributes["val"].type.CopyFrom(output.type)
        getattr(constant.attributes["val"].immediateValue.tensor, field).values.extend(array.reshape(-1).tolist())
        self.block.operations.insert(0, constant)
        if key not in operation.inputs:
            operation.inputs[key].arguments.add()
        operation.inputs[key].arguments[0].name = name

    def weight(self, operation: Any, key: str = "weight") -> np.ndarray:
        """A weight in the file as an array that may be written to."""
        value = self._constant(self.source(operation, key))
        if value.WhichOneof("value") != "blobFileValue":
            raise NotApplicableError(key)
        size, start = struct.unpack_from("<QQ", self.weights, value.blobFileValue.offset + 8)
        shape = [dimension.constant.size for dimension in value.type.tensorType.dimensions]
        return np.frombuffer(self.weights, "<f4", size // 4, start).reshape(shape)

    def blob(self, operation: Any, key: str = "weight") -> Any:
        """The reference to a weight in the file."""
        value = self._constant(self.source(operation, key))
        if value.WhichOneof("value") != "blobFileValue":
            raise NotApplicableError(key)
        return value.blobFileValue

    def bypass(self, operation: Any, key: str = "x") -> None:
        """Remove an op: its users take its input."""
        old, new = operation.outputs[0].name, self.source(operation, key)
        for other in self.block.operations:
            for argument in other.inputs.values():
                for binding in argument.arguments:
                    if binding.name == old:
                        binding.name = new

    def _constant(self, name: str) -> Any:
        for operation in self.block.operations:
            if operation.type == "const" and operation.outputs[0].name == name:
                return operation.attributes["val"]
        raise NotApplicableError(f"{name} is computed")


GRAPH: dict[str, Callable[[Subject], None]] = {}  # changes of program and weights; written by Subject.save
FILES: dict[str, Callable[[Subject], None]] = {}  # changes of the files themselves: always corrupt


def _graph(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
    GRAPH[function.__name__] = function
    return function


def _file(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
    FILES[function.__name__] = function
    return function


def _kernel(subject: Subject, which: int = 0) -> tuple[Any, np.ndarray]:
    """A convolution with a kernel of more than one pixel, and its weight (O, I, kH, kW)."""
    convs = [o for o in subject.block.operations if o.type == "conv"]
    hits = [(o, w) for o in convs for w in [subject.weight(o)] if w.ndim == 4 and w.shape[2] > 1]
    if len(hits) <= which:
        raise NotApplicableError("conv with a kernel")
    return hits[which]


# Activations and arithmetic.


@_graph
def gelu_becomes_silu(s: Subject) -> None:
    operation = s.find("gelu")
    operation.type = "silu"
    del operation.inputs["mode"]


@_graph
def gelu_becomes_relu(s: Subject) -> None:
    operation = s.find("gelu")
    operation.type = "relu"
    del operation.inputs["mode"]


@_graph
def gelu_mode_becomes_tanh(s: Subject) -> None:
    s.set_parameter(s.find("gelu"), "mode", "TANH_APPROXIMATION")


@_graph
def gelu_is_left_out(s: Subject) -> None:
    s.bypass(s.find("gelu"))


@_graph
def silu_becomes_sigmoid(s: Subject) -> None:
    s.find("silu").type = "sigmoid"


@_graph
def mul_becomes_add(s: Subject) -> None:
    s.find("mul").type = "add"


@_graph
def sub_takes_its_operands_in_reverse(s: Subject) -> None:
    operation = s.find("sub")
    x, y = s.source(operation, "x"), s.source(operation, "y")
    s.rebind(operation, "x", y)
    s.rebind(operation, "y", x)


@_graph
def residual_takes_one_operand_twice(s: Subject) -> None:
    operation = s.find("add")
    s.rebind(operation, "x", s.source(operation, "y"))


# Convolutions.


@_graph
def kernel_is_transposed(s: Subject) -> None:
    _, weight = _kernel(s)
    weight[:] = weight.transpose(0, 1, 3, 2).copy()


@_graph
def kernel_is_flipped(s: Subject) -> None:
    _, weight = _kernel(s)
    weight[:] = weight[..., ::-1].copy()


@_graph
def depthwise_kernel_is_transposed(s: Subject) -> None:
    _, weight = _kernel(s, 1)
    weight[:] = weight.transpose(0, 1, 3, 2).copy()


@_graph
def pad_is_shifted_by_one(s: Subject) -> None:
    operation, _ = _kernel(s)
    top, bottom, left, right = (int(v) for v in s.parameter(operation, "pad"))
    s.set_parameter(operation, "pad", np.array([top + 1, bottom - 1, left, right], np.int32))


@_graph
def pad_is_one_too_small(s: Subject) -> None:
    operation, _ = _kernel(s)
    s.set_parameter(operation, "pad", (s.parameter(operation, "pad") - 1).clip(0).astype(np.int32))


@_graph
def pad_type_becomes_valid(s: Subject) -> None:
    s.set_parameter(_kernel(s)[0], "pad_type", "valid")


@_graph
def stride_becomes_one(s: Subject) -> None:
    s.set_parameter(_kernel(s)[0], "strides", np.array([1, 1], np.int32))


@_graph
def dilation_becomes_one_with_the_pad_to_match(s: Subject) -> None:
    for operation in s.block.operations:
        if operation.type == "conv" and s.parameter(operation, "dilations")[0] > 1:
            half = s.weight(operation).shape[2] // 2
            s.set_parameter(operation, "dilations", np.array([1, 1], np.int32))
            s.set_parameter(operation, "pad", np.full(4, half, np.int32))
            return
    raise NotApplicableError("dilated convolution")


@_graph
def groups_are_halved(s: Subject) -> None:
    for operation in s.block.operations:
        if operation.type == "conv" and (groups := int(s.parameter(operation, "groups")[0])) > 1:
            s.set_parameter(operation, "groups", np.int32(groups // 2))
            return
    raise NotApplicableError("grouped convolution")


@_graph
def conv_bias_is_dropped(s: Subject) -> None:
    del s.find("conv", "bias").inputs["bias"]


@_graph
def conv_channel_is_zeroed(s: Subject) -> None:
    s.weight(s.find("conv"))[1] = 0


@_graph
def input_channels_are_swapped(s: Subject) -> None:
    weight = s.weight(s.find("conv"))
    weight[:] = weight[:, ::-1].copy()


@_graph
def output_channels_are_swapped(s: Subject) -> None:
    weight = s.weight(s.find("conv"))
    weight[[0, 1]] = weight[[1, 0]]


@_graph
def conv_weight_is_scaled_by_a_thousandth(s: Subject) -> None:
    s.weight(s.find("conv"))[:] *= np.float32(1.001)


@_graph
def one_weight_changes_its_sign(s: Subject) -> None:
    flat = s.weight(s.find("conv")).reshape(-1)
    flat[np.abs(flat).argmax()] *= -1


@_graph
def two_weights_of_one_shape_are_exchanged(s: Subject) -> None:
    seen: dict[tuple[int, ...], Any] = {}
    for operation in s.block.operations:
        if operation.type in ("conv", "linear"):
            blob, shape = s.blob(operation), s.weight(operation).shape
            if shape in seen and seen[shape].offset != blob.offset:
                seen[shape].offset, blob.offset = blob.offset, seen[shape].offset
                return
            seen[shape] = blob
    raise NotApplicableError("two weights of one shape")


# Normalisation.


def _norm(s: Subject) -> Any:
    try:
        return s.find("batch_norm", "gamma")
    except NotApplicableError:
        return s.find("layer_norm", "gamma")


@_graph
def norm_scale_is_wrong_by_one_percent(s: Subject) -> None:
    s.weight(_norm(s), "gamma")[:] *= np.float32(1.01)


@_graph
def norm_epsilon_is_wrong(s: Subject) -> None:
    s.set_parameter(_norm(s), "epsilon", np.float32(0.1))


@_graph
def norm_scale_and_shift_are_exchanged(s: Subject) -> None:
    operation = _norm(s)
    gamma, beta = s.source(operation, "gamma"), s.source(operation, "beta")
    s.rebind(operation, "gamma", beta)
    s.rebind(operation, "beta", gamma)


@_graph
def norm_mean_and_variance_are_exchanged(s: Subject) -> None:
    operation = s.find("batch_norm")
    mean, variance = s.source(operation, "mean"), s.source(operation, "variance")
    s.rebind(operation, "mean", variance)
    s.rebind(operation, "variance", mean)


@_graph
def norm_is_left_out(s: Subject) -> None:
    s.bypass(_norm(s))


# Linear layers, attention, layout.


@_graph
def linear_weight_is_stored_transposed(s: Subject) -> None:
    weight = s.weight(s.find("linear"))
    weight[:] = weight.T.reshape(weight.shape).copy()


@_graph
def linear_bias_is_dropped(s: Subject) -> None:
    del s.find("linear", "bias").inputs["bias"]


@_graph
def classes_are_swapped_in_the_head(s: Subject) -> None:
    weight = s.weight([o for o in s.block.operations if o.type == "linear"][-1])
    weight[[0, 1]] = weight[[1, 0]]


@_graph
def softmax_goes_along_another_axis(s: Subject) -> None:
    s.set_parameter(s.find("softmax"), "axis", np.int32(-2))


@_graph
def matmul_flips_transpose_y(s: Subject) -> None:
    operation = s.find("matmul")
    s.set_parameter(operation, "transpose_y", np.bool_(not s.parameter(operation, "transpose_y")[0]))


@_graph
def concat_takes_its_values_in_reverse(s: Subject) -> None:
    arguments = s.find("concat", test=lambda o: len(o.inputs["values"].arguments) > 1).inputs["values"].arguments
    arguments[0].name, arguments[1].name = arguments[1].name, arguments[0].name


@_graph
def transpose_has_other_axes(s: Subject) -> None:
    operation = s.find("transpose")
    s.set_parameter(operation, "perm", s.parameter(operation, "perm")[::-1].astype(np.int32))


@_graph
def reduction_takes_another_axis(s: Subject) -> None:
    operation = s.find("reduce_mean")
    s.set_parameter(operation, "axes", np.array([1, 3], np.int32))


@_graph
def reduction_misses_an_axis(s: Subject) -> None:
    operation = s.find("reduce_mean")
    s.set_parameter(operation, "axes", s.parameter(operation, "axes")[:1].astype(np.int32))


@_graph
def slice_starts_one_later(s: Subject) -> None:
    operation = s.find("slice_by_index")
    for key in ("begin", "end"):
        moved = s.parameter(operation, key).astype(np.int32)
        moved[-1] += 1
        s.set_parameter(operation, key, moved)


@_graph
def upsampling_aligns_corners(s: Subject) -> None:
    operation = s.find("upsample_bilinear")
    s.set_parameter(operation, "align_corners", np.bool_(not s.parameter(operation, "align_corners")[0]))


# Weights that are no proper numbers, or belong elsewhere.


@_graph
def one_weight_is_not_a_number(s: Subject) -> None:
    s.weight(s.find("conv")).reshape(-1)[5] = np.nan


@_graph
def one_weight_is_infinite(s: Subject) -> None:
    s.weight(s.find("linear")).reshape(-1)[0] = np.inf


@_graph
def two_kilobytes_of_weights_are_flipped(s: Subject) -> None:
    size, start = struct.unpack_from("<QQ", s.weights, s.blob(_kernel(s)[0]).offset + 8)
    for place in range(start, start + min(size, 2048)):
        s.weights[place] ^= 0xFF


@_graph
def one_exponent_bit_is_flipped(s: Subject) -> None:
    start = struct.unpack_from("<Q", s.weights, s.blob(s.find("conv")).offset + 16)[0]
    s.weights[start + 3] ^= 0x08


# Interface and metadata.


@_graph
def labels_are_swapped(s: Subject) -> None:
    user = s.spec.description.metadata.userDefined
    labels = json.loads(user["edgevit.labels"])
    user["edgevit.labels"] = json.dumps([labels[1], labels[0], *labels[2:]])


@_graph
def image_takes_the_other_colour_order(s: Subject) -> None:
    kind = s.spec.description.input[0].type
    if kind.WhichOneof("Type") != "imageType":
        raise NotApplicableError("imageType")
    kind.imageType.colorSpace = 30  # BGR


@_graph
def image_is_not_normalised(s: Subject) -> None:
    s.bypass(s.find("mul", test=lambda o: s.source(o, "x") == "image"))


@_graph
def labels_of_the_classifier_are_swapped(s: Subject) -> None:
    labels = s.find("classify").inputs["classes"].arguments[0].value.immediateValue.list.values
    first, second = (item.immediateValue.tensor.strings for item in labels[:2])
    first.values[0], second.values[0] = second.values[0], first.values[0]


@_graph
def probabilities_are_logits(s: Subject) -> None:
    s.rebind(s.find("classify"), "probabilities", "logits")


@_graph
def classifier_forgets_its_label(s: Subject) -> None:
    s.find("classify")
    s.spec.description.predictedFeatureName = ""


@_graph
def one_label_is_missing(s: Subject) -> None:
    user = s.spec.description.metadata.userDefined
    user["edgevit.labels"] = json.dumps(json.loads(user["edgevit.labels"])[:-1])


@_graph
def output_is_renamed(s: Subject) -> None:
    old = s.block.outputs[0]
    s.block.outputs[0] = s.spec.description.output[0].name = "scores"
    next(o for o in s.block.operations if o.outputs[0].name == old).outputs[0].name = "scores"


@_graph
def output_is_renamed_in_the_description_only(s: Subject) -> None:
    s.spec.description.output[0].name = "scores"


@_graph
def another_value_is_returned(s: Subject) -> None:
    """The head's input leaves under the output's name."""
    head = [o for o in s.block.operations if o.type == "linear"][-1]
    producer = next(o for o in s.block.operations if o.outputs[0].name == s.source(head, "x"))
    name = s.block.outputs[0]
    head.outputs[0].name = "unused"
    old, producer.outputs[0].name = producer.outputs[0].name, name
    for operation in s.block.operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.name == old:
                    binding.name = name


@_graph
def input_is_described_with_another_size(s: Subject) -> None:
    kind = s.spec.description.input[0].type
    if kind.WhichOneof("Type") == "imageType":
        kind.imageType.height += 32
    else:
        kind.multiArrayType.shape[2] += 32


@_graph
def output_is_described_as_float16(s: Subject) -> None:
    s.spec.description.output[0].type.multiArrayType.dataType = 65552


@_graph
def deployment_target_is_older_than_the_op_set(s: Subject) -> None:
    s.spec.specificationVersion -= 1


@_graph
def an_op_does_not_exist(s: Subject) -> None:
    s.find("conv").type = "convolve"


@_graph
def an_op_uses_a_later_value(s: Subject) -> None:
    s.rebind(s.find("conv"), "x", s.block.outputs[0])


@_graph
def a_value_is_declared_with_another_shape(s: Subject) -> None:
    s.find("conv").outputs[0].type.tensorType.dimensions[1].constant.size += 1


@_graph
def a_weight_is_declared_with_another_shape(s: Subject) -> None:
    value = s._constant(s.source(s.find("conv"), "weight"))
    first, second = value.type.tensorType.dimensions[0].constant, value.type.tensorType.dimensions[1].constant
    first.size, second.size = second.size, first.size


@_graph
def a_weight_is_looked_for_64_bytes_later(s: Subject) -> None:
    s.blob(s.find("conv")).offset += 64


@_graph
def a_weight_record_has_another_type(s: Subject) -> None:
    struct.pack_into("<I", s.weights, s.blob(s.find("conv")).offset + 4, 1)


@_graph
def a_weight_record_is_longer_than_the_file(s: Subject) -> None:
    struct.pack_into("<Q", s.weights, s.blob(s.find("conv")).offset + 8, 1 << 40)


# Files.


@_file
def weight_file_is_cut_in_half(s: Subject) -> None:
    data = (s.package / WEIGHTS).read_bytes()
    (s.package / WEIGHTS).write_bytes(data[: len(data) // 2])


@_file
def weight_file_lacks_its_last_weight(s: Subject) -> None:
    data = (s.package / WEIGHTS).read_bytes()
    (s.package / WEIGHTS).write_bytes(data[:-65])


@_file
def weight_file_is_empty(s: Subject) -> None:
    (s.package / WEIGHTS).write_bytes(b"")


@_file
def weight_file_is_missing(s: Subject) -> None:
    (s.package / WEIGHTS).unlink()


@_file
def weight_file_is_shifted_by_a_byte(s: Subject) -> None:
    (s.package / WEIGHTS).write_bytes(b"\0" + (s.package / WEIGHTS).read_bytes()[:-1])


@_file
def program_is_cut_in_half(s: Subject) -> None:
    data = (s.package / PROGRAM).read_bytes()
    (s.package / PROGRAM).write_bytes(data[: len(data) // 2])


@_file
def program_is_empty(s: Subject) -> None:
    (s.package / PROGRAM).write_bytes(b"")


@_file
def program_has_64_bytes_overwritten(s: Subject) -> None:
    data = bytearray((s.package / PROGRAM).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = b"\xa5" * 64
    (s.package / PROGRAM).write_bytes(data)


@_file
def package_manifest_is_cut_off(s: Subject) -> None:
    data = (s.package / "Manifest.json").read_bytes()
    (s.package / "Manifest.json").write_bytes(data[: len(data) // 2])


@_file
def package_manifest_names_a_missing_root(s: Subject) -> None:
    path = s.package / "Manifest.json"
    document = json.loads(path.read_text())
    document["rootModelIdentifier"] = "nobody"
    path.write_text(json.dumps(document))


@_file
def package_manifest_points_outside(s: Subject) -> None:
    path = s.package / "Manifest.json"
    document = json.loads(path.read_text())
    document["itemInfoEntries"][document["rootModelIdentifier"]]["path"] = "../../golden/x"
    path.write_text(json.dumps(document))
