"""The baseline networks compute what ours do and what the official code does, in a form that is not ours."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import benchmarks.reference
from benchmarks.reference import NAMES, build
from edgevit.errors import UsageError
from edgevit.models import create_model, get_spec
from tests.edgevit.models.goldens import (
    apply_golden_weights,
    assert_intermediates,
    assert_logits_fp32,
    assert_logits_fp64,
    assert_state_dict_layout,
    load_golden,
)

GOLDENS = {  # golden name of an inner output -> module path in the baseline network
    "van_b0": {
        "block1.0": "block1.0",
        "stage1_after_norm": "norm1",
        "stage2_after_norm": "norm2",
        "stage3_after_norm": "norm3",
        "stage4_after_norm": "norm4",
    },
    "mobile_former_294m": {f"features.{block}": f"features.{block}" for block in range(12)}
    | {"local_global": "local_global"},
}
# What baseline tools meet in the baseline form, with its count, and never in ours.
BASELINE_OPS = {
    "van_b0": {"layer_norm": 4, "transpose": 4, "permute": 3, "contiguous": 3, "clone": 26},
    "mobile_former_294m": {"layer_norm": 34, "select": 23, "matmul": 68, "split_with_sizes": 22},
    "segnetr_32": {"index_select": 32, "contiguous": 16, "unsqueeze": 15},
    "vt_resnet18": {"matmul": 11, "permute": 8},
}
MAX_RANK = {"van_b0": (4, 4), "mobile_former_294m": (4, 4), "segnetr_32": (6, 4), "vt_resnet18": (4, 4)}


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(name) -> nn.Module:
    """Our form; its layer scales, batch norm statistics and biases are all drawn, none is 0 or 1."""
    return apply_golden_weights(create_model(name))


@pytest.fixture(scope="module")
def baseline(name, ours) -> nn.Module:
    model = build(name)
    model.load_state_dict(ours.state_dict(), strict=True)
    return model


def exported(model: nn.Module, size: int) -> torch.export.ExportedProgram:
    return torch.export.export(model, (torch.randn(1, 3, size, size),), strict=False)


def op_counts(program: torch.export.ExportedProgram) -> Counter[str]:
    """How often the graph calls each ATen op, overloads together."""
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return Counter(target._schema.name.removeprefix("aten::") for target in targets if hasattr(target, "_schema"))


def max_rank(program: torch.export.ExportedProgram) -> int:
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "call_function"]
    return max(value.ndim for value in values if isinstance(value, torch.Tensor))


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


def test_state_dict_has_our_keys_order_and_shapes(baseline, ours):
    layout = [(key, value.shape, value.dtype) for key, value in baseline.state_dict().items()]
    assert layout == [(key, value.shape, value.dtype) for key, value in ours.state_dict().items()]


@pytest.mark.parametrize("size", [64, 224])
def test_float32_outputs_equal_ours(baseline, ours, size):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        got, expected = baseline(images), ours(images)
    assert got.shape == expected.shape
    assert expected.std() > 0.1
    assert relative_error(got, expected) <= 1e-5


def test_float64_outputs_equal_ours(name, ours):
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    baseline64, ours64 = build(name).double(), create_model(name).double().eval()
    baseline64.load_state_dict(ours.state_dict())
    ours64.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert relative_error(baseline64(images), ours64(images)) <= 1e-12


@pytest.mark.parametrize("name", GOLDENS)
def test_outputs_equal_the_official_code(name):
    golden, model = load_golden(name), apply_golden_weights(build(name))
    assert_state_dict_layout(model, golden)
    assert_logits_fp32(model, golden)
    assert_intermediates(model, golden, GOLDENS[name])
    assert_logits_fp64(model, golden)


def test_exported_graph_is_the_baseline_form_and_ours_is_not(name, baseline, ours):
    spec = get_spec(name)
    baseline_program, our_program = exported(baseline, spec.input_size), exported(ours, 64)
    baseline_ops, our_ops = op_counts(baseline_program), op_counts(our_program)
    assert {op: baseline_ops[op] for op in BASELINE_OPS[name]} == BASELINE_OPS[name]
    assert not BASELINE_OPS[name].keys() & our_ops.keys()
    assert (max_rank(baseline_program), max_rank(our_program)) == MAX_RANK[name]
    norms = sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in baseline.modules())
    assert baseline_ops["batch_norm"] == norms > 0
    assert baseline_program.graph.output_node().args[0][0].meta["val"].shape == spec.outputs[0].shape


def test_softmax_of_baseline_vt_tokenizers_is_not_over_the_last_axis():
    nodes = exported(build("vt_resnet18"), 64).graph.find_nodes(op="call_function", target=torch.ops.aten.softmax.int)
    axes = [(node.meta["val"].ndim, node.args[1]) for node in nodes]
    assert axes == 2 * [(4, 2), (3, 2), (4, 3)]  # tokenizer, transformer, projector


def test_class_count_changes_the_head_only(name):
    published, seven = build(name).state_dict(), build(name, 7).state_dict()
    head = {
        "van_b0": "head",
        "mobile_former_294m": "classifier.classifier.1",
        "segnetr_32": "head",
        "vt_resnet18": "fc",
    }
    differing = {key for key, value in published.items() if value.shape != seven[key].shape}
    assert differing == {f"{head[name]}.weight", f"{head[name]}.bias"}
    assert seven[f"{head[name]}.weight"].shape[0] == 7


def test_unknown_name_is_a_usage_error_with_the_nearest_name():
    with pytest.raises(UsageError, match="van_b0"):
        build("van_b1")


def test_baseline_networks_share_no_code_with_ours():
    folder = Path(benchmarks.reference.__file__).parent
    families = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    assert [path.stem for path in families] == ["mobile_former", "segnetr", "van", "vt_resnet"]
    for path in [*families, folder / "__init__.py"]:
        imports = {
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        }
        modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
        allowed = {"__future__", "math", "torch", "torch.nn.functional"}
        if path.name == "__init__.py":
            allowed |= {"collections.abc", "benchmarks.reference", "edgevit.errors"}
        assert modules <= allowed, path
