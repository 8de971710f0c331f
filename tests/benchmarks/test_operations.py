"""Time per operation: kinds, sums, and what is read from the two runtimes' own formats."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.litert_profile import Layer, assign_kinds, parse_summary
from benchmarks.onnxruntime_profile import operation_kind, read_events
from benchmarks.operations import CONVOLUTION as OTHER
from benchmarks.operations import (
    COPY,
    DEPTHWISE,
    ELEMENTWISE,
    POINTWISE,
    PRODUCT,
    WIDE_DEPTHWISE,
    Timed,
    add_up,
    convolution_kind,
    job_parser,
)
from benchmarks.xnnpack_replay import build_program, read_operations
from tests.tiny import SIZE, TinyClassifier, seeded

SUMMARY = """
========== Run Order ==========
                    [node type]    [start]    [first]   [avg ms]        [%]     [cdf%]   [mem KB] [times called]   [Name]
         Delegate/Convolution (NHWC, F32) IGEMM      0.000      0.292      1.204     1.257%     1.257%      0.000             10   [Delegate]:0
                          Delegate/GELU (NC)      0.000      0.022      0.022     0.023%     1.281%      0.000             10   [Delegate]:1
                                      GATHER      1.304      0.010      0.011     0.010%     1.291%      0.000             10   [m/gather]:7
     Delegate/Fully Connected (NC, F32) GEMM      0.000      0.039      0.038     0.040%     1.344%      0.000             10   [Delegate]:3

========== Top by Computation Time ==========
                    [node type]    [start]    [first]   [avg ms]        [%]     [cdf%]   [mem KB] [times called]   [Name]
         Delegate/Convolution (NHWC, F32) IGEMM      0.000      0.292      1.204     1.257%     1.257%      0.000             10   [Delegate]:0
"""  # noqa: E501


def test_depthwise_is_split_at_the_fast_kernels():
    assert convolution_kind((5, 5), depthwise=True) == DEPTHWISE
    assert convolution_kind((7, 7), depthwise=True) == WIDE_DEPTHWISE
    assert convolution_kind((1, 1), depthwise=False) == POINTWISE
    assert convolution_kind((7, 7), depthwise=False) == OTHER


def test_kinds_add_up_to_the_sum():
    summary = add_up(
        [Timed(POINTWISE, "a", 3, 0.5), Timed(POINTWISE, "b", 1, 0.25), Timed(COPY, "c", 2, 1.0)], 4.0, "m"
    )
    assert summary["kinds"] == {POINTWISE: {"count": 4, "ms": 1.75}, COPY: {"count": 2, "ms": 2.0}}
    assert summary["sum_ms"] == 3.75
    assert [one["name"] for one in summary["costliest"]] == ["c", "a", "b"]


def test_profilers_take_files_and_how_often_to_run_them():
    argv = ["a.pte", "b.pte", "--threads", "1", "--rounds", "5", "--runs", "7", "--report", "r.json"]
    job = job_parser("Times.").parse_args(argv)
    assert ([str(path) for path in job.files], str(job.report)) == (["a.pte", "b.pte"], "r.json")
    assert (job.threads, job.rounds, job.runs) == (1, 5, 7)


def test_profile_is_read_in_run_order():
    assert parse_summary(SUMMARY) == [
        ("Delegate/Convolution (NHWC, F32) IGEMM", 1.204),
        ("Delegate/GELU (NC)", 0.022),
        ("GATHER", 0.011),
        ("Delegate/Fully Connected (NC, F32) GEMM", 0.038),
    ]


def test_layers_lend_their_kinds_only_if_all_match_up():
    kernels = [kernel for kernel, _ in parse_summary(SUMMARY)]
    layers = [Layer(WIDE_DEPTHWISE, "7x7"), Layer(POINTWISE, "1x1")]
    assert [layer.kind for layer in assign_kinds(kernels, layers)] == [WIDE_DEPTHWISE, ELEMENTWISE, COPY, POINTWISE]
    assert [layer.kind for layer in assign_kinds(kernels, layers[:1])] == [OTHER, ELEMENTWISE, COPY, PRODUCT]


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    pytest.importorskip("executorch.exir")
    from benchmarks.baseline_conversions import convert_executorch

    folder = tmp_path_factory.mktemp("tiny")
    image = torch.randn(1, 3, SIZE, SIZE)
    convert_executorch(seeded(TinyClassifier), image.numpy(), folder)
    return folder / "model.pte"


def test_operations_of_a_program_are_counted_by_kind(lowered):
    inside, outside = read_operations(lowered)
    kinds = {kind: sum(n for o, n in inside.items() if o.kind == kind) for kind in {o.kind for o in inside}}
    assert kinds[WIDE_DEPTHWISE] == 1  # the 7x7
    assert kinds[OTHER] == 1  # the stem
    assert kinds[PRODUCT] == 1
    assert not outside


@pytest.mark.parametrize("copies", [1, 3])
def test_replayed_operation_computes_what_it_is(lowered, copies):
    from executorch.extension.pybindings import _portable_lib as runtime

    inside, _ = read_operations(lowered)
    gelu = next(operation for operation in inside if operation.type == "XNNGelu")
    program = build_program(gelu, copies)
    (shape,) = gelu.input_shapes
    image = torch.randn(shape)
    results = runtime._load_for_executorch_from_buffer(program).forward((image,), clone_outputs=True)
    assert len(results) == copies
    for result in results:
        torch.testing.assert_close(result, torch.nn.functional.gelu(image), atol=1e-5, rtol=1e-4)


def test_equal_work_in_other_shapes_is_one_operation(lowered):
    inside, _ = read_operations(lowered)
    reshapes = [operation for operation in inside if operation.type == "XNNStaticReshape"]
    assert reshapes
    for operation in reshapes:
        values = json.loads(operation.text)["values"]
        assert all(value["num_dims"] == 1 for value in values.values())


@pytest.mark.parametrize(
    ("name", "weight", "kind"),
    [
        ("Conv", (32, 1, 7, 7), WIDE_DEPTHWISE),
        ("FusedConv", (32, 1, 3, 3), DEPTHWISE),
        ("Conv", (64, 32, 1, 1), POINTWISE),
        ("Conv", (64, 3, 7, 7), OTHER),
        ("Gemm", (10, 8), PRODUCT),
        ("Transpose", (), COPY),
        ("Gelu", (), ELEMENTWISE),
    ],
)
def test_onnxruntime_operations_have_kinds(name, weight, kind):
    assert operation_kind(name, [(1, 32, 8, 8), weight]) == kind


def _event(name, op, duration_us, category="Node"):
    shapes = [{"float": [1, 8, 4, 4]}, {"float": [8, 8, 1, 1]}]
    return {"cat": category, "name": name, "dur": duration_us, "args": {"op_name": op, "input_type_shape": shapes}}


def test_onnxruntime_events_give_the_median_of_each_operation():
    runs = [_event("a_kernel_time", "Conv", us) for us in (1000, 5000, 2000)]
    other = [_event("b_kernel_time", "Conv", 3000)]
    rest = [_event("a_fence_before", "Conv", 9000), _event("model_run", "", 9000, category="Session")]
    assert read_events([*runs, *other, *rest]) == {(POINTWISE, "Conv 1x8x4x4, 8x8x1x1"): [2.0, 3.0]}
