"""What edgevit/compat/torch.py relies on."""

from __future__ import annotations

import copy
import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.export import graph_signature

from edgevit.compat import torch as compat


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


@pytest.fixture(scope="module")
def exported():
    return torch.export.export(Layer().eval(), (torch.zeros(1, 4),))


def test_pairs_are_declared_as_programs_call_them():
    numbers = "float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype"
    operations = compat.qdq_operations()
    assert str(operations.quantize_per_tensor.default._schema).endswith(
        f"per_tensor(Tensor input, {numbers}) -> Tensor"
    )
    assert f"(Tensor input, {numbers}, *" in str(operations.dequantize_per_tensor.default._schema)
    assert [argument.name for argument in operations.dequantize_per_channel.default._schema.arguments][:4] == [
        "input", "scales", "zero_points", "axis",
    ]  # fmt: skip


def test_pairs_round_half_to_even_and_clamp():
    operations = compat.qdq_operations()
    values = torch.tensor([0.25, 0.75, -9.0, 200.0])
    quantized = operations.quantize_per_tensor.default(values, 0.5, 3, -128, 127, torch.int8)
    assert quantized.tolist() == [3, 5, -15, 127]
    assert operations.dequantize_per_tensor.default(quantized, 0.5, 3, -128, 127, torch.int8).tolist() == [0, 1, -9, 62]


def test_declarations_name_arguments_and_their_defaults():
    declared = compat.schema_of(torch.ops.aten.softmax.int)
    assert declared.name == "aten::softmax"
    assert [(argument.name, argument.default_value) for argument in declared.arguments] == [
        ("self", None), ("dim", None), ("dtype", None),
    ]  # fmt: skip
    assert compat.schema_of(torch.ops.aten.flatten.using_ints).arguments[2].default_value == -1


def test_trees_are_walked_in_order():
    tree = (1, [2, {"a": 3}], None)
    assert compat.tree_leaves(tree)[:3] == [1, 2, 3]
    assert compat.map_tree(lambda leaf: leaf and leaf + 1, tree) == (2, [3, {"a": 4}], None)


def test_a_program_returns_what_is_added(exported):
    module = copy.deepcopy(exported.graph_module)
    (returned,) = module.graph.find_nodes(op="output")
    (linear,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)
    returned.args = ((*returned.args[0], linear),)
    module.recompile()
    specs = list(exported.graph_signature.output_specs)
    specs.append(
        graph_signature.OutputSpec(
            graph_signature.OutputKind.USER_OUTPUT, graph_signature.TensorArgument(linear.name), None
        )
    )
    result, inner = compat.with_returned(exported, module, specs).module(check_guards=False)(torch.ones(1, 4))
    torch.testing.assert_close(torch.relu(inner), result, rtol=0, atol=0)


def test_copies_of_programs_warn_of_torchs_own_classes_and_are_quiet_here(exported):
    with pytest.warns(FutureWarning, match="LeafSpec"):
        copy.deepcopy(exported.module_call_graph)
    with warnings.catch_warnings(), compat.quiet_tree_specs():
        warnings.simplefilter("error", DeprecationWarning)
        copy.deepcopy(exported.module_call_graph)


def test_records_of_origins_are_shared_within_the_context_alone(exported):
    from torch.fx.traceback import NodeSource

    record = NodeSource(next(iter(exported.graph.nodes)), "pass")
    assert copy.deepcopy(record) is not record
    with compat.shared_node_origins():
        assert copy.deepcopy(record) is record
    assert copy.deepcopy(record) is not record


def test_fake_quantization_computes_as_the_public_one_and_trains_its_scale():
    x = torch.linspace(-3, 3, 24).reshape(2, 12)
    scale, zero_point = torch.tensor([0.05], requires_grad=True), torch.tensor([4.0], requires_grad=True)
    result = compat.fake_quantize_per_tensor(x, scale, zero_point, -128, 127, 0.5)
    torch.testing.assert_close(result, torch.fake_quantize_per_tensor_affine(x, 0.05, 4, -128, 127), rtol=0, atol=1e-7)
    result.sum().backward()
    assert scale.grad.shape == (1,)

    scales = torch.tensor([0.05, 0.02], requires_grad=True)
    zeros = torch.zeros(2)
    result = compat.fake_quantize_per_channel(x, scales, zeros, -127, 127, 0.5)
    expected = torch.fake_quantize_per_channel_affine(x, scales.detach(), zeros.int(), 0, -127, 127)
    torch.testing.assert_close(result.detach(), expected, rtol=0, atol=1e-7)
    result.sum().backward()
    assert scales.grad.abs().min() > 0


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_all_batch_norms_are_known(norm):
    assert compat.is_batch_norm(norm(3))
    assert not compat.is_batch_norm(nn.GroupNorm(1, 3))


@compat.notified_of_casts
class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.casts = nn.Parameter(torch.ones(1)), 0

    def after_cast(self) -> None:
        self.casts += 1


@pytest.mark.parametrize(
    "cast",
    [lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.to_empty(device="cpu"), lambda m: m.to("meta")],
    ids=["half", "to dtype", "to_empty", "to device"],
)
def test_every_way_to_cast_is_noticed_inside_other_modules_too(cast):
    inner = Counted()
    outer = nn.Sequential(inner)
    assert cast(outer) is outer
    assert inner.casts == 1


def test_only_chosen_calls_are_counted():
    weight = torch.ones(4, 4)
    with compat.flop_counter(lambda arguments, result: result.shape[0] == 2, {}) as counter:
        torch.ones(2, 4) @ weight
        torch.ones(3, 4) @ weight
    assert counter.get_total_flops() == 2 * 2 * 4 * 4


def test_onnx_forms_are_known_by_operation():
    has_form = compat.onnx_forms(20)
    assert has_form(torch.ops.aten.conv2d.default)
    assert not has_form(torch.ops.aten.linalg_eigvals.default)


def test_inductor_takes_and_gives_packages():
    compiling, loading = torch._inductor.aoti_compile_and_package, torch._inductor.aoti_load_package
    assert {"package_path", "inductor_configs"} <= set(inspect.signature(compiling).parameters)
    assert next(iter(inspect.signature(loading).parameters)) == "path"
    exceptions = pytest.importorskip("torch._inductor.exc")
    assert issubclass(exceptions.InductorError, RuntimeError)  # what callers catch


def test_operations_with_an_underscore_are_there():
    """Named in passes and converters by torch.ops.aten, where torch documents most of them as core ATen."""
    aten = torch.ops.aten
    assert aten._softmax.default
    assert aten._to_copy.default
    assert aten._unsafe_view.default
    assert aten._assert_tensor_metadata.default
    assert len(compat.schema_of(aten._native_batch_norm_legit_no_training.default).returns) == 3
