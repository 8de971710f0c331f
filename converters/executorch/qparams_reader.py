"""The quantization parameters of a .pte file, from its XNNPACK delegates' graphs and the kernel calls around them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from converters.executorch.packing import PACKED
from converters.executorch.pte_reader import Delegate, Json, KernelCall, read_contents, values_of
from edgevit.errors import ContractError
from edgevit.quantization.model_qparams import (
    LayerQParams,
    ModelQParams,
    canonical_weight,
    count_kinds,
    is_average,
)
from edgevit.quantization.qparams import QParams, QuantizedWeight

_DATA_MOVEMENT = ("Convert", "Copy", "Reshape", "Transpose", "Slice", "Concatenate", "ConstantPad", "MaxPooling")
_LAYER_KERNELS = ("aten::convolution", "aten::linear", "aten::addmm")
_DATA_MOVEMENT_KERNELS = ("aten::cat", "aten::clone", "aten::max_pool2d_with_indices", "aten::constant_pad_nd")
_PAIR_KERNELS = ("quantized_decomposed::quantize_per_tensor", "quantized_decomposed::dequantize_per_tensor")
# What a float weight is for. The delegate writes a BatchNorm of its own as a depthwise 1x1 convolution: that
# is arithmetic with a constant, no layer of the network.
_LAYER, _AVERAGE, _SCALING = "layer", "average", "scaling"


def read_qparams(path: Path) -> ModelQParams:
    """The quantization parameters of the file. Raises ContractError if it is damaged."""
    contents = read_contents(path)
    readers = [_DelegateReader(delegate, index) for index, delegate in enumerate(contents.delegates)]
    activations: dict[str, QParams] = {}
    calls = [call for call in contents.calls if "::" in call.name]
    for reader in readers:
        activations |= reader.activations()
    for index, call in enumerate(calls):
        if call.name in _PAIR_KERNELS:
            scale, zero_point = call.arguments[1], call.arguments[2]
            if scale is None or zero_point is None:
                raise ContractError(f"{path}: a call of {call.name} has no scale or zero point", fix="convert again")
            activations[f"call {index}"] = QParams(float(np.float32(scale)), int(zero_point))
    floats = [found for reader in readers for found in reader.float_layers()]
    floats += [(call.name, _LAYER) for call in calls if call.name in _LAYER_KERNELS]
    kinds = [kind for reader in readers for kind in reader.kept_in_float()]
    kinds += [role for _, role in floats if role == _SCALING]
    return ModelQParams(
        layers=tuple(layer for reader in readers for layer in reader.layers()),
        activations=activations,
        float_layers=tuple(name for name, role in floats if role == _LAYER),
        averages=sum(role == _AVERAGE for _, role in floats),
        kept_in_float=count_kinds([*kinds, *(call.name for call in calls if _computes(call))]),
    )


def _computes(call: KernelCall) -> bool:
    only_moves = call.name.endswith("_copy") or call.name in _DATA_MOVEMENT_KERNELS
    return call.name.startswith("aten::") and not only_moves and call.name not in _LAYER_KERNELS


class _DelegateReader:
    """One delegate's graph; values are known by their ids, which are the delegate's own."""

    def __init__(self, delegate: Delegate, index: int) -> None:
        self._delegate, self._index = delegate, index
        values = values_of(delegate.graph)
        self._tensors = {id_: value.tensor for id_, value in values.items()}
        self._quantization = {id_: value.qparams for id_, value in values.items()}

    def activations(self) -> dict[str, QParams]:
        """The qparams of each int8 tensor that is no constant."""
        found = {id_: self._qparams(id_) for id_, tensor in self._tensors.items() if not tensor["constant_buffer_idx"]}
        return {f"delegate {self._index} value {id_}": qparams for id_, qparams in found.items() if qparams is not None}

    def layers(self) -> Iterator[LayerQParams]:
        """Those with an int8 weight, in execution order."""
        for name, node in self._weighted():
            id_ = node["filter_id"]
            if self._kind(id_) != "qcint8":
                continue
            axis = self._quantization[id_]["channel_dim"]
            yield LayerQParams(
                name,
                QuantizedWeight(canonical_weight(self._constant(id_, np.int8), axis), self._scales(id_)),
                self._qparams(node["input1_id"]),
                self._qparams(node["output_id"]),
            )

    def float_layers(self) -> Iterator[tuple[str, str]]:
        """(name, role) of those with another weight."""
        for name, node in self._weighted():
            if self._kind(node["filter_id"]) != "qcint8":
                one_by_one = node.get("groups", 1) > 1 and node["group_input_channels"] == 1
                depthwise = name.startswith("Depthwise") or one_by_one
                yield name, self._role(node["filter_id"], depthwise=depthwise)

    def _role(self, id_: int, *, depthwise: bool) -> str:
        dtype = {"fp32": np.float32, "fp16": np.float16}.get(self._kind(id_))
        if dtype is None or not self._tensors[id_]["constant_buffer_idx"]:
            return _LAYER
        weight = self._constant(id_, dtype)
        if depthwise:
            return _SCALING if weight.shape[1:3] == (1, 1) else _LAYER
        return _AVERAGE if is_average(weight) else _LAYER

    def kept_in_float(self) -> Iterator[str]:
        """The kinds of the other operations with float results."""
        for entry in self._delegate.graph["xnodes"]:
            kind, node = entry["xnode_union_type"], entry["xnode_union"]
            result = node.get("output_id", node.get("output_value_id"))
            computes = kind not in PACKED and not any(part in kind for part in _DATA_MOVEMENT)
            if computes and self._kind(result) != "qint8":
                yield kind

    def _weighted(self) -> Iterator[tuple[str, Json]]:
        nodes = [(entry["xnode_union_type"], entry["xnode_union"]) for entry in self._delegate.graph["xnodes"]]
        for index, (kind, node) in enumerate(nodes):
            if kind in PACKED:
                yield f"{kind.removeprefix('XNN')} {self._index}.{index}", node

    def _kind(self, id_: int) -> str:
        return self._tensors[id_]["datatype"].removeprefix("xnn_datatype_")

    def _qparams(self, id_: int) -> QParams | None:
        if self._kind(id_) != "qint8":
            return None
        quantization = self._quantization[id_]
        return QParams(float(np.uint32(quantization["scale"]).view(np.float32)), quantization["zero_point"])

    def _scales(self, id_: int) -> np.ndarray:
        """Float32 (O,): in a constant buffer of their own, or in the graph itself."""
        quantization = self._quantization[id_]
        if quantization["scale_buffer_idx"]:
            return np.frombuffer(self._delegate.constant(quantization["scale_buffer_idx"]), "<f4")
        return np.array(quantization["scale"], np.uint32).view(np.float32)

    def _constant(self, id_: int, dtype: type) -> np.ndarray:
        tensor = self._tensors[id_]
        stored = self._delegate.constant(tensor["constant_buffer_idx"])
        return np.frombuffer(stored, dtype).reshape(tensor["dims"])
