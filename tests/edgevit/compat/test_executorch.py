"""What edgevit/compat/executorch.py relies on."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import pytest
import torch
from torch import nn

from edgevit.compat import executorch as compat

pytest.importorskip("executorch.exir", reason="ExecuTorch is not installed")

# In this order: parts of graphs are made with positional arguments.
FIELDS = {
    "ConstantDataOffset": "offset size named_key",
    "PerChannelQuant": "scale channel_dim scale_buffer_idx num_scales",
    "XNNConcatenate2": "axis input1_id input2_id input3_id input4_id output_id flags input5_id",
    "XNNConcatenate5": "axis input1_id input2_id input3_id input4_id output_id flags input5_id",
    "XNNFullyConnected": "input1_id filter_id bias_id output_id flags",
    "XNNQuantizedTensorValue": "tensor_value quant_params",
    "XNNStaticConstantPad": "pre_paddings post_paddings padding_value input_id output_id flags",
    "XNNStaticReshape": "num_dims new_shape input_id output_id flags",
    "XNNStaticSlice": "num_dims offsets sizes input_id output_id flags",
    "XNNTensorValue": "datatype num_dims dims constant_buffer_idx external_id flags id_out",
    "XNode": "xnode_union debug_handle output_min_max",
    "XValue": "xvalue_union",
}
READ = {
    "XNNBatchMatrixMultiply": "input1_id input2_id output_id flags",
    "XNNConv2d": "padding_top padding_left kernel_height kernel_width subsampling_height subsampling_width "
    "dilation_height dilation_width group_input_channels group_output_channels groups input1_id filter_id bias_id",
    "XNNConvert": "input_id output_id",
    "XNNDepthwiseConv2d": "groups input1_id filter_id bias_id output_id",
    "XNNGraph": "xnodes xvalues input_ids output_ids constant_data",
    "XNNStaticTranspose": "perm input_id output_id",
}


@dataclasses.dataclass
class Lowered:
    """A linear layer as a file; graphs: what was serialized, with the bytes behind each named constant."""

    data: bytes
    graphs: list[tuple[object, dict[str, bytes]]]


@pytest.fixture(scope="module")
def lowered():
    from executorch.backends.xnnpack import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    graphs = []

    def look(graph, store):
        names = [constant.named_key for constant in graph.constant_data if constant.named_key]
        graphs.append((graph, {name: compat.stored_bytes(store, name) for name in names}))

    torch.manual_seed(0)
    exported = torch.export.export(nn.Linear(4, 3).eval(), (torch.zeros(1, 4),))
    with compat.rewritten_graphs(look):
        edge = to_edge_transform_and_lower(
            exported, partitioner=[XnnpackPartitioner()], compile_config=compat.unchecked_edge_config()
        )
    return Lowered(bytes(edge.to_executorch().buffer), graphs)


def fields(name):
    return [field.name for field in dataclasses.fields(getattr(compat.graph_schema(), name))]


@pytest.mark.parametrize("name", FIELDS)
def test_parts_of_graphs_are_made_from_these_arguments(name):
    assert fields(name) == FIELDS[name].split()


@pytest.mark.parametrize("name", READ)
def test_parts_of_graphs_have_these_fields(name):
    assert set(READ[name].split()) <= set(fields(name))


def test_ids_and_constants_have_their_reserved_numbers():
    assert compat.no_value() == 2**32 - 1
    constant = compat.named_constant(12, "name")
    assert (constant.offset, constant.size, constant.named_key) == (2**64 - 1, 12, "name")


def test_every_serialized_graph_passes_by_with_its_constants(lowered):
    ((graph, constants),) = lowered.graphs
    assert [type(node.xnode_union).__name__ for node in graph.xnodes] == ["XNNFullyConnected"]
    assert sorted(len(data) for data in constants.values()) == [3 * 4, 3 * 4 * 4]


def test_wrapped_preprocessing_is_itself_again(lowered):
    from executorch.backends.xnnpack import xnnpack_preprocess as preprocess
    from executorch.exir._serialize._named_data_store import NamedDataStore

    assert preprocess.NamedDataStore is NamedDataStore
    assert preprocess.serialize_xnnpack_binary.__module__.endswith("xnnpack_graph_serialize")


def test_patterns_that_are_looked_for_have_the_operations_by_which_a_pass_is_left_out():
    from executorch.backends.xnnpack._passes import XNNPACKPassManager
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    def operations(graph_module):
        return {
            str(compat.aten_operation(node.target)) for node in graph_module.graph.nodes if node.op == "call_function"
        }

    assert all(operations(graph) == {"aten.upsample_bilinear2d.vec"} for graph in bilinear_2d.get_graphs())
    assert all("aten.logical_not.default" in operations(graph) for graph in sdpa.get_graphs())
    names = {one.__name__ for one in XNNPACKPassManager(None).passes}
    assert set(compat._PATTERNS) <= names


@pytest.mark.parametrize(
    ("first", "needed"),
    [
        (nn.Identity, set()),
        (nn.PReLU, {"PReLUReshapePass"}),
        (lambda: nn.BatchNorm2d(3), {"FuseBatchNormPass", "DecomposeBatchNorm"}),
    ],
)
def test_passes_without_work_are_left_out_and_the_file_is_the_same(first, needed, monkeypatch):
    from executorch.backends.xnnpack import XnnpackPartitioner, xnnpack_preprocess
    from executorch.exir import to_edge_transform_and_lower

    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(first=first(), second=nn.Conv2d(3, 3, 3)))  # a pass cannot bear names in digits
    exported = torch.export.export(network.eval(), (torch.zeros(1, 3, 8, 8),))
    ran = []

    class Recorded(xnnpack_preprocess.XNNPACKPassManager):
        def transform(self):
            ran.append({one.__name__ for one in self.passes})
            return super().transform()

    def lower():
        return bytes(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)

    monkeypatch.setattr(xnnpack_preprocess, "XNNPACKPassManager", Recorded)
    whole = lower()
    with compat.without_idle_passes():
        assert lower() == whole
    assert xnnpack_preprocess.XNNPACKPassManager is Recorded
    every, busy = ran
    assert every - busy == compat._PATTERNS.keys() - needed


def test_stores_take_give_and_forget_bytes():
    from executorch.exir._serialize._named_data_store import NamedDataStore

    store = NamedDataStore()
    for name in ("a", "b"):
        compat.store_bytes(store, name, name.encode() * 8)
    compat.keep_only(store, {"b"})
    assert compat.stored_bytes(store, "b") == b"b" * 8
    output = store.get_named_data_store_output()
    assert (list(output.pte_data), output.buffers) == (["b"], [b"b" * 8])


def test_files_come_apart_and_together_again(lowered):
    file = compat.read_program(lowered.data)
    assert file.named_data is not None
    (plan,) = file.program.execution_plan
    (delegate,) = plan.delegates
    assert delegate.id == "XnnpackBackend"
    blob = bytes(file.program.backend_delegate_data[delegate.processed.index].data)
    parts = compat.split_delegate(blob)
    graph = compat.flatbuffer_to_json(compat.graph_schema_text(), parts.flatbuffer)
    assert [node["xnode_union_type"] for node in graph["xnodes"]] == ["XNNFullyConnected"]
    again = compat.split_delegate(compat.join_delegate(parts))
    assert again == parts
    rewritten = compat.json_to_flatbuffer(compat.graph_schema_text(), graph)
    assert compat.flatbuffer_to_json(compat.graph_schema_text(), rewritten) == graph


def test_runtime_loads_paths_and_bytes(lowered, tmp_path):
    (tmp_path / "model.pte").write_bytes(lowered.data)
    results = []
    for program in (lowered.data, tmp_path / "model.pte"):
        module = compat.load_module(program)
        assert set(module.method_names()) == {"forward"}
        meta = module.method_meta("forward")
        assert tuple(meta.input_tensor_meta(0).sizes()) == (1, 4)
        assert (meta.num_inputs(), meta.num_outputs(), meta.output_tensor_meta(0).dtype()) == (1, 1, 6)
        results += module.forward((torch.ones(1, 4),), clone_outputs=True)
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_runtime_knows_its_threads_and_kernels():
    assert compat.set_threads(1) == 1
    assert {"aten::add.out", "aten::permute_copy.out"} <= set(compat.kernel_names())


def test_partitioner_has_a_class_for_prelu_to_replace():
    assert compat.prelu_config() in compat.partitioner_configs()
    assert {"check_constraints", "get_node_and_deps"} <= set(dir(compat.prelu_config()))


def test_edge_operations_stand_for_torchs():
    from executorch.exir import to_edge

    exported = torch.export.export(nn.ReLU(), (torch.zeros(1, 4),))
    found = [node for node in to_edge(exported).exported_program().graph.nodes if node.op == "call_function"]
    assert [compat.aten_operation(node.target) for node in found] == [torch.ops.aten.relu.default]
    assert compat.aten_operation(torch.ops.aten.add.Tensor) is torch.ops.aten.add.Tensor


def test_constants_are_folded_dequantized_weights_too():
    from edgevit.compat.torch import qdq_operations

    dequantize = qdq_operations().dequantize_per_channel.default

    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("values", torch.ones(3, 4, dtype=torch.int8))
            self.register_buffer("scales", torch.full((3,), 0.5))
            self.register_buffer("zeros", torch.zeros(3, dtype=torch.int64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = dequantize(self.values, self.scales, self.zeros, 0, -127, 127, torch.int8)
            return nn.functional.linear(x, weight)

    folded = compat.fold_constants(torch.export.export(Stored(), (torch.zeros(1, 4),)))
    assert [node.target for node in folded.graph.nodes if node.op == "call_function"] == [torch.ops.aten.linear.default]
