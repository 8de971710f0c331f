import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgevit.errors import UsageError
from edgevit.models import create_model, get_spec
from edgevit.models.segnetr import (
    SegNetrBlock,
    WindowGate,
    displace,
    partition,
    space_to_depth,
    unpartition,
)
from edgevit.spec import Task

NAMES = ("segnetr_64", "segnetr_32")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return create_model("segnetr_32").eval()


def randomize(module: nn.Module) -> nn.Module:
    """Weights large enough for gates far from uniform, and branch weights that differ."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=2.0 / math.sqrt(parameter[0].numel()))
    return module


@pytest.mark.parametrize(
    ("name", "params", "published_macs"),
    [
        ("segnetr_64", 12_224_969, 7.55e9),
        ("segnetr_32", 3_417_385, 1.97e9),
    ],
)
def test_parameters_and_macs_are_the_documented_ones(name, params, published_macs):
    spec = get_spec(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = spec.build(1, 224).eval()
        logits = model(torch.empty(1, 3, 224, 224))
    assert sum(parameter.numel() for parameter in model.parameters()) == spec.params == params
    assert counter.get_total_flops() // 2 == spec.macs
    assert spec.macs == pytest.approx(published_macs, rel=0.005)
    assert logits.shape == spec.outputs[0].shape == (1, 1, 224, 224)
    assert spec.task is Task.SEGMENT


@pytest.mark.parametrize("size", range(32, 385, 32))
def test_every_multiple_of_32_gives_a_map_of_its_own_size(size):
    spec = get_spec("segnetr_32").for_task(num_classes=3, input_size=size)
    with torch.device("meta"):
        assert spec.build(3, size)(torch.empty(2, 3, size, size)).shape == (2, 3, size, size)


@pytest.mark.parametrize("name", NAMES)
def test_size_that_windows_cannot_tile_is_a_usage_error(name):
    with pytest.raises(UsageError, match="multiple of 32"):
        get_spec(name).for_task(input_size=112)


def test_other_class_count_changes_the_head_only(model):
    four = create_model("segnetr_32", num_classes=4).state_dict()
    differing = {key for key, value in model.state_dict().items() if value.shape != four[key].shape}
    assert differing == {"head.weight", "head.bias"}


def test_batch_equals_its_images_one_by_one(model):
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        one_by_one = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), one_by_one, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter():
    model = create_model("segnetr_32")
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.isfinite().all()] == []


def test_exported_graph_stays_in_rank_4(model):
    program = torch.export.export(model, (torch.randn(1, 3, 64, 64),), strict=False).run_decompositions({})
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "call_function"]
    assert max(value.ndim for value in values if isinstance(value, torch.Tensor)) == 4


@pytest.mark.parametrize("side", [1, 2, 4])
def test_partition_is_the_usual_six_dimensional_one_and_unpartition_undoes_it(side):
    grid = torch.randn(2, 8, 12, 3)
    windows = grid.reshape(2, 8 // side, side, 12 // side, side, 3).permute(0, 1, 3, 2, 4, 5)
    assert torch.equal(partition(grid, side), windows.reshape(2, 8 // side, 12 // side, side * side * 3))
    assert torch.equal(unpartition(partition(grid, side), side), grid)


@pytest.mark.parametrize(
    ("count", "order"),
    [
        (2, [2, 1]),
        (4, [4, 3, 2, 1]),
        (6, [6, 3, 2, 5, 4, 1]),
        (14, [14, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 1]),
    ],
)
def test_displacement_gives_the_described_order_along_both_axes(count, order):
    rows, columns = torch.meshgrid(torch.arange(1, count + 1), torch.arange(1, 9), indexing="ij")
    grid = torch.stack((rows, columns), -1)[None]  # each window holds its own place, counted from 1
    moved = displace(grid)
    assert moved[0, :, 0, 0].tolist() == order
    assert moved[0, 0, :, 1].tolist() == [8, 3, 2, 5, 4, 7, 6, 1]
    assert len({tuple(place) for place in moved.reshape(-1, 2).tolist()}) == count * 8
    assert torch.equal(displace(moved), grid)


def test_space_to_depth_stacks_the_four_pixels_of_each_window():
    x = torch.randn(2, 3, 4, 8)
    pixels = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    assert torch.equal(space_to_depth(x), torch.cat(pixels, 1))  # (2, 3, 4, 8) -> (2, 12, 2, 4)


def test_skips_and_merges_keep_the_same_channels(model):
    seen = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
        for name, module in model.named_modules()
        if name == "stem" or name.split(".")[0] in ("encoder", "decoder")
    ]
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    sources = ["stem", "encoder.0", "encoder.1", "encoder.2"]
    for level, source in enumerate(sources):
        made = seen[source][1]
        merged, joined = seen[f"encoder.{level}"][0], seen[f"decoder.{3 - level}"][0]
        kept = made[:, ::2]
        assert torch.equal(merged, space_to_depth(kept)), source
        assert torch.equal(joined[:, -kept.shape[1] :], kept), source  # behind the upsampled map
        # Every other channel before the merge or after it is the same.
        assert torch.equal(merged, space_to_depth(made)[:, ::2]), source


def naive_gate(gate: WindowGate, image: torch.Tensor) -> torch.Tensor:
    """The gate (H, W) of one image (C, H, W), window by window and without displacing anything."""
    mean = image.mean(0)
    height, width = mean.shape
    side = gate.window
    result = torch.full_like(mean, gate.local_weight.item() if gate.local is None else 0.0)
    if gate.local is not None:
        for top in range(0, height, side):
            for left in range(0, width, side):
                place = (slice(top, top + side), slice(left, left + side))
                weights = mlp_softmax(gate.local, mean[place].reshape(-1))
                result[place] += gate.local_weight * weights.reshape(side, side)
    rows, columns = displaced_pairs(height // side), displaced_pairs(width // side)
    for row_pair in rows:
        for column_pair in columns:
            places = [
                (slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
                for row in row_pair
                for column in column_pair
            ]
            weights = mlp_softmax(gate.broad, torch.cat([mean[place].reshape(-1) for place in places]))
            for place, part in zip(places, weights.chunk(4), strict=True):
                result[place] += gate.broad_weight * part.reshape(side, side)
    return result


def displaced_pairs(count: int) -> list[tuple[int, int]]:
    """Which windows, counted from 0, meet in each global window of one axis."""
    return [((2 * pair - 1) % count, (2 * pair + 2) % count) for pair in range(count // 2)]


def mlp_softmax(branch: nn.Module, values: torch.Tensor) -> torch.Tensor:
    return branch.fc2(F.gelu(branch.fc1(values))).softmax(0)


@pytest.mark.parametrize(("window", "height", "width"), [(1, 4, 6), (2, 12, 8), (4, 16, 24), (8, 16, 32)])
def test_window_gate_equals_a_loop_over_windows(window, height, width):
    gate = WindowGate(4, window)
    x = 3 * torch.randn(2, 4, height, width)
    randomize(gate)
    with torch.no_grad():
        got = gate(x)
        expected = torch.stack([naive_gate(gate, image) for image in x]).unsqueeze(1)
    assert expected.std() > 0.01 * expected.abs().mean()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_summed_gate_equals_two_gated_branches():
    gate = randomize(WindowGate(4, 2)).requires_grad_(False)
    x = torch.randn(1, 4, 8, 8)
    both = gate(x)
    local_weight = gate.local_weight.clone()
    gate.local_weight.zero_()
    broad = x * gate(x)
    gate.local_weight.copy_(local_weight)
    gate.broad_weight.zero_()
    torch.testing.assert_close(x * both, x * gate(x) + broad)


def test_block_stands_alone_at_any_even_number_of_windows():
    block = SegNetrBlock(12, window=2).eval()
    assert block(torch.randn(2, 12, 12, 20)).shape == (2, 12, 12, 20)
