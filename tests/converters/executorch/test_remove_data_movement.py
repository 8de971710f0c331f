"""Redundant data movement in XNNPACK graphs: what cancels, what stays, and that the outputs are those of torch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import (
    XNNAdd,
    XNNBatchMatrixMultiply,
    XNNDatatype,
    XNNGelu,
    XNNGraph,
    XNNQuantizedTensorValue,
    XNNStaticReshape,
    XNNStaticTranspose,
    XNNTensorValue,
    XNode,
    XValue,
)
from torch import nn

from converters.executorch.converter import CONVERTER, ExecuTorchOptions
from converters.executorch.remove_data_movement import DataMovementRemover, simplify
from converters.executorch.serializing import rewritten
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import EdgevitError
from edgevit.export.export_program import export
from tests.edgevit.contract.test_manifest import make_manifest
from tests.tiny import classifier_spec

_SHAPE = (1, 4, 5, 3)


class _Builder:
    """An XNNGraph, one value and node after the other; value 0 is its input."""

    def __init__(self, *shape: int) -> None:
        self.graph = XNNGraph("0", [], [], 0, [], [], [])
        self.graph.input_ids.append(self.value(shape))

    def value(self, shape: tuple[int, ...], buffer: int = 0) -> int:
        number = len(self.graph.xvalues)
        tensor = XNNTensorValue(XNNDatatype.xnn_datatype_fp32, len(shape), list(shape), buffer, number, 0, number)
        self.graph.xvalues.append(XValue(tensor))
        return number

    def transpose(self, source: int, *order: int) -> int:
        shape = tuple(self.shape(source)[axis] for axis in order)
        return self._add(shape, lambda out: XNNStaticTranspose(len(order), list(order), source, out, 0))

    def reshape(self, source: int, *shape: int) -> int:
        return self._add(shape, lambda out: XNNStaticReshape(len(shape), list(shape), source, out, 0))

    def gelu(self, source: int) -> int:
        return self._add(self.shape(source), lambda out: XNNGelu(source, out, 0))

    def add(self, left: int, right: int) -> int:
        return self._add(self.shape(left), lambda out: XNNAdd(left, right, out, 0))

    def multiply(self, left: int, right: int, flags: int = 0) -> int:
        shape = (*self.shape(left)[:-1], self.shape(right)[-2 if flags else -1])
        return self._add(shape, lambda out: XNNBatchMatrixMultiply(left, right, out, flags))

    def shape(self, number: int) -> tuple[int, ...]:
        return tuple(self.graph.xvalues[number].xvalue_union.dims)

    def simplified(self, *outputs: int) -> list[tuple]:
        """The operations left: (kind, inputs..., output)."""
        self.graph.output_ids.extend(outputs)
        simplify(self.graph)
        return [_shown(node.xnode_union) for node in self.graph.xnodes]

    def values(self) -> set[int]:
        return {value.xvalue_union.id_out for value in self.graph.xvalues}

    def _add(self, shape, operation) -> int:
        out = self.value(shape)
        self.graph.xnodes.append(XNode(operation(out), 0))
        return out


def _shown(operation) -> tuple:
    fields = [field.name for field in dataclasses.fields(operation) if field.name.endswith("_id")]
    return (type(operation).__name__.removeprefix("XNN"), *(getattr(operation, name) for name in fields))


def test_transposes_that_cancel_are_gone_with_their_values():
    net = _Builder(*_SHAPE)
    back = net.transpose(net.transpose(0, 0, 2, 3, 1), 0, 3, 1, 2)
    result = net.gelu(back)
    assert net.simplified(result) == [("Gelu", 0, result)]
    assert net.values() == {0, result}


def test_two_transposes_are_one():
    net = _Builder(*_SHAPE)
    result = net.gelu(last := net.transpose(net.transpose(0, 0, 2, 3, 1), 0, 2, 3, 1))
    assert net.simplified(result) == [("StaticTranspose", 0, last), ("Gelu", last, result)]
    assert net.graph.xnodes[0].xnode_union.perm == [0, 3, 1, 2]


def test_three_transposes_that_cancel_leave_nothing():
    net = _Builder(*_SHAPE)
    value = 0
    for _ in range(3):
        value = net.transpose(value, 0, 2, 3, 1)
    result = net.gelu(value)
    assert net.simplified(result) == [("Gelu", 0, result)]


def test_transpose_of_axes_of_size_1_is_a_reshape():
    net = _Builder(1, 1, 5, 3)
    result = net.gelu(moved := net.transpose(0, 0, 2, 3, 1))
    assert net.simplified(result) == [("StaticReshape", 0, moved), ("Gelu", moved, result)]
    assert net.graph.xnodes[0].xnode_union.new_shape == [1, 5, 3, 1]


def test_transpose_of_equal_axes_stays():
    net = _Builder(1, 4, 4, 4)  # the shape is the same, the numbers are not
    result = net.gelu(moved := net.transpose(0, 0, 2, 3, 1))
    assert net.simplified(result) == [("StaticTranspose", 0, moved), ("Gelu", moved, result)]


def test_reshape_of_a_reshape_reads_the_first_source():
    net = _Builder(*_SHAPE)
    result = net.gelu(last := net.reshape(net.reshape(0, 1, 60), 1, 15, 4))
    assert net.simplified(result) == [("StaticReshape", 0, last), ("Gelu", last, result)]
    assert net.graph.xnodes[0].xnode_union.new_shape == [1, 15, 4]


def test_reshape_to_its_own_shape_and_there_and_back_are_gone():
    net = _Builder(*_SHAPE)
    result = net.gelu(net.reshape(net.reshape(net.reshape(0, *_SHAPE), 1, 60), *_SHAPE))
    assert net.simplified(result) == [("Gelu", 0, result)]


def test_pair_with_a_view_of_axes_of_size_1_between_cancels():
    net = _Builder(1, 1, 5, 3)
    channels_last = net.transpose(0, 0, 2, 3, 1)
    result = net.gelu(net.reshape(channels_last, 1, 1, 5, 3))
    assert net.simplified(result) == [("Gelu", 0, result)]


def test_operation_between_transposes_keeps_them():
    net = _Builder(*_SHAPE)
    first = net.transpose(0, 0, 2, 3, 1)
    last = net.transpose(inner := net.gelu(first), 0, 3, 1, 2)
    assert net.simplified(last) == [
        ("StaticTranspose", 0, first),
        ("Gelu", first, inner),
        ("StaticTranspose", inner, last),
    ]


def test_transposed_right_factor_is_a_flag():
    net = _Builder(2, 5, 3)
    result = net.multiply(0, net.transpose(0, 0, 2, 1))
    assert net.simplified(result) == [("BatchMatrixMultiply", 0, 0, result)]
    assert net.graph.xnodes[0].xnode_union.flags == 1


@pytest.mark.parametrize("side", ["left", "flagged", "batch"])
def test_other_factors_keep_their_transposes(side):
    net = _Builder(3, 3, 3)
    moved = net.transpose(0, *((1, 0, 2) if side == "batch" else (0, 2, 1)))
    factors = (moved, 0) if side == "left" else (0, moved)
    result = net.multiply(*factors, flags=int(side == "flagged"))
    assert [kind for kind, *_ in net.simplified(result)] == ["StaticTranspose", "BatchMatrixMultiply"]
    assert net.graph.xnodes[1].xnode_union.flags == int(side == "flagged")


def test_factor_by_way_of_two_transposes_is_a_flag():
    net = _Builder(2, 3, 5)  # (0, 1, 2) -> (1, 0, 2) -> (0, 2, 1) of the source
    first = net.transpose(0, 1, 0, 2)
    result = net.multiply(0, net.transpose(first, 1, 2, 0))
    assert net.simplified(result) == [("BatchMatrixMultiply", 0, 0, result)]


def test_producer_with_another_reader_stays_for_it():
    net = _Builder(*_SHAPE)
    shared = net.transpose(0, 0, 2, 3, 1)
    back, other = net.gelu(net.transpose(shared, 0, 3, 1, 2)), net.gelu(shared)
    assert net.simplified(back, other) == [
        ("StaticTranspose", 0, shared),
        ("Gelu", 0, back),
        ("Gelu", shared, other),
    ]


def test_outputs_are_made_even_where_they_hold_what_is_there():
    net = _Builder(*_SHAPE)
    there = net.transpose(0, 0, 2, 3, 1)
    back = net.transpose(there, 0, 3, 1, 2)
    left = net.simplified(there, back)
    assert [(kind, output) for kind, *_, output in left] == [("StaticTranspose", there), ("StaticReshape", back)]
    assert net.graph.output_ids == [there, back]
    assert {0, there, back} <= net.values()


def test_both_operands_are_shortened_and_constants_stay():
    net = _Builder(*_SHAPE)
    weight = net.value(_SHAPE, buffer=1)
    scale = XNNQuantizedTensorValue(net.graph.xvalues[weight].xvalue_union, None)
    net.graph.xvalues[weight] = XValue(scale)
    result = net.add(net.reshape(0, *_SHAPE), weight)
    assert net.simplified(result) == [("Add", 0, weight, result)]
    assert [value.xvalue_union for value in net.graph.xvalues if value.xvalue_union is scale] == [scale]


def test_input_that_nothing_reads_stays_an_input():
    net = _Builder(*_SHAPE)
    unread = net.value((1, 2))
    net.graph.input_ids.append(unread)
    net.gelu(unread)
    result = net.gelu(0)
    assert net.simplified(result) == [("Gelu", 0, result)]
    assert net.values() == {0, unread, result}


def test_patch_is_undone_whatever_happens():
    remover = DataMovementRemover()
    before = xnnpack_preprocess.serialize_xnnpack_binary, xnnpack_preprocess.NamedDataStore
    with pytest.raises(EdgevitError, match="inside"), rewritten(remover.rewrite):
        assert xnnpack_preprocess.serialize_xnnpack_binary is not before[0]
        raise EdgevitError("inside")
    assert (xnnpack_preprocess.serialize_xnnpack_binary, xnnpack_preprocess.NamedDataStore) == before
    assert remover.transposes == 0


class _PixelAttention(nn.Module):
    """A feature map as pixels, two products of them with each other, and a feature map again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.key = nn.Linear(8, 8)
        self.head = nn.Conv2d(8, 5, 16)

    def forward(self, x):
        x = self.stem(x)  # (N, 8, 16, 16)
        pixels = x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 8)
        scores = torch.bmm(pixels, self.key(pixels).transpose(1, 2)).softmax(-1)  # (N, 256, 256)
        mixed = torch.bmm(scores, pixels).reshape(x.shape[0], 16, 16, 8).permute(0, 3, 1, 2)
        return self.head(x + mixed).flatten(1)


@pytest.mark.parametrize("deployed", [True, False])
def test_pixels_of_a_map_are_never_moved(tmp_path, deployed, monkeypatch):
    torch.manual_seed(0)
    model, spec = _PixelAttention().eval(), classifier_spec()
    program = export(deploy(model, spec)[0] if deployed else model, spec)
    result = CONVERTER.convert(program, ExecuTorchOptions(), tmp_path)
    assert result.lowering.regions == 1
    assert result.lowering.outside == {}
    assert result.lowering.transposes == 1  # the input, which is given in NCHW
    manifest = dataclasses.replace(make_manifest(), inputs=result.inputs, outputs=result.outputs)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    output = CONVERTER.open(tmp_path, manifest).run({"image": x.numpy()})["logits"]
    expected = model(x).detach().numpy()
    assert np.abs(output - expected).max() <= 1e-5 * np.abs(expected).max()
    # Without the rewrites of the delegate's graph the same program moves every feature map to NCHW and back.
    monkeypatch.setattr("converters.executorch.remove_data_movement.simplify", lambda graph: None)
    assert CONVERTER.convert(program, ExecuTorchOptions(), tmp_path).lowering.transposes > 3
