"""What edgevit/compat/nncf.py relies on."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from edgevit.compat import nncf as compat
from edgevit.graph.capture import capture, functional
from edgevit.infra.optional_imports import version

if version("nncf") is None:
    pytest.skip("nncf is not installed", allow_module_level=True)


def test_nncf_opens_without_its_telemetry():
    compat.open_nncf()
    assert "openvino_telemetry" not in sys.modules


@pytest.mark.parametrize(
    ("symmetric", "parameters"), [(True, {"scale"}), (False, {"input_low", "input_range"})], ids=["weights", "results"]
)
def test_quantizers_have_their_parameters_and_call_quantize(symmetric, parameters):
    shape = (2, 1) if symmetric else (1,)
    spec = compat.quantizer_spec(shape, symmetric=symmetric, narrow_range=symmetric)

    class Doubling(compat.quantizer_type(symmetric=symmetric)):
        def quantize(self, x, execute_traced_op_as_identity=False):
            return 2 * x

    quantizer = Doubling(spec)
    trained = {name: tuple(value.shape) for name, value in quantizer.named_parameters()}
    assert parameters <= {name.removeprefix("_").removesuffix("_param_storage") for name in trained}
    assert {tuple(getattr(quantizer, name).shape) for name in parameters} == {shape}
    assert quantizer(torch.ones(2, 3)).tolist() == [[2.0] * 3] * 2


def test_quantization_happens_where_it_is_named_and_nowhere_else():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    graph = functional(capture(module, (torch.zeros(1, 3, 8, 8),), "tiny"))
    nodes = {node.name: node for node in graph.graph.nodes}
    first = next(name for name in nodes if name.startswith("conv2d"))
    source = next(name for name, node in nodes.items() if node.op == "placeholder")
    for node in nodes.values():
        if node.op == "get_attr":
            node.meta["val"] = graph.get_parameter(node.target).detach()
    images = [torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    quantized = compat.quantize_at(graph, [source], [first], images)
    calls = [str(node.target) for node in quantized.graph.nodes if node.op == "call_function"]
    assert sum("quantized_decomposed.quantize_per_tensor" in call for call in calls) == 1
    assert sum("quantized_decomposed.quantize_per_channel" in call for call in calls) == 1
    operation = torch.ops.quantized_decomposed.quantize_per_tensor.default
    (stored,) = quantized.graph.find_nodes(op="call_function", target=operation)
    _, scale, zero_point, low, high, _ = stored.args
    assert high - low == 255
    assert low <= zero_point <= high
    reach = max(float(image.abs().max()) for image in images)
    assert 0.5 * reach < scale * 127 < 1.5 * reach


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def test_masks_of_a_pruned_network_are_there_to_be_changed():
    nncf = compat.open_nncf()
    with compat.quiet_nncf():
        pruned = nncf.prune(
            Layer().eval(),
            nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL,
            ratio=0.5,
            examples_inputs=torch.zeros(1, 8),
        )
    masks = compat.pruning_masks(pruned)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"linear.weight": 16}
    before = pruned(torch.ones(1, 8))
    masks["linear.weight"].fill_(True)
    assert not torch.equal(pruned(torch.ones(1, 8)), before)
