"""Each kind of operation against values worked out by hand or by another route through torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgevit.errors import UsageError
from edgevit.mil.ops import OPS

X = torch.arange(24.0).reshape(1, 2, 3, 4)


def vector(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def scalar(value: float | bool) -> torch.Tensor:
    return torch.tensor(value)


def test_conv_same_gives_the_odd_pixel_to_the_end_and_same_lower_to_the_start():
    x, weight = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.ones(1, 1, 2)
    assert OPS["conv"](x, weight, pad_type="same").flatten().tolist() == [3, 5, 3]
    assert OPS["conv"](x, weight, pad_type="same_lower").flatten().tolist() == [1, 3, 5]


def test_conv_custom_padding_is_before_and_after_per_axis():
    weight = torch.ones(1, 2, 1, 1)
    assert OPS["conv"](X, weight, pad_type="custom", pad=vector(1, 0, 0, 2)).shape == (1, 1, 4, 6)


@pytest.mark.parametrize(("stride", "pad"), [(2, 0), (2, 1), (3, 2)])
def test_conv_transpose_custom_is_torchs(stride, pad):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, 4, 5, 6), torch.randn(4, 3, 3, 4), torch.randn(6)
    ours = OPS["conv_transpose"](
        x, weight, bias, pad=vector(pad, pad, pad, pad), pad_type="custom", strides=vector(stride, stride), groups=2
    )
    theirs = F.conv_transpose2d(x, weight, bias, stride=stride, padding=pad, groups=2)
    torch.testing.assert_close(ours, theirs)


def test_conv_transpose_output_shape_adds_zeros_that_get_the_bias():
    x, weight, bias = torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([5.0])
    out = OPS["conv_transpose"](x, weight, bias, output_shape=vector(1, 1, 5), pad_type="custom", strides=vector(2))
    assert out.flatten().tolist() == [6, 6, 6, 6, 5]


@pytest.mark.parametrize("count_pad", [True, False])
@pytest.mark.parametrize("ceil", [True, False])
def test_avg_pool_is_torchs_with_padding_and_ceil_mode(ceil, count_pad):
    x = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    ours = OPS["avg_pool"](
        x,
        vector(3, 3),
        "custom",
        strides=vector(2, 2),
        pad=vector(1, 1, 1, 1),
        exclude_padding_from_average=not count_pad,
        ceil_mode=ceil,
    )
    theirs = F.avg_pool2d(x, 3, 2, 1, ceil_mode=ceil, count_include_pad=count_pad)
    torch.testing.assert_close(ours, theirs)


def test_max_pool_pads_with_less_than_anything():
    out = OPS["max_pool"](-torch.ones(1, 1, 2), vector(3), "same")
    assert out.flatten().tolist() == [-1, -1]


def test_slice_by_index_with_negative_stride_mask_and_squeeze():
    out = OPS["slice_by_index"](
        X,
        vector(0, 1, 2, 3),
        vector(1, 0, -1, 0),
        vector(1, 1, -1, -2),
        vector(0, 0, 1, 0).bool(),
        vector(1, 0, 1, 0).bool(),
        vector(0, 1, 0, 0).bool(),
    )
    np.testing.assert_array_equal(out, X.numpy()[:, 1, ::-1, 3:0:-2])


def test_slice_update_writes_where_slice_by_index_reads():
    bounds = (vector(0, 1, 2, 0), vector(1, 2, 0, 4), vector(1, 1, -1, 2))
    update = -torch.arange(1.0, 5).reshape(1, 1, 2, 2)
    out = OPS["slice_update"](X, update, *bounds)
    assert torch.equal(OPS["slice_by_index"](out, *bounds), update)
    assert (out != X).sum() == 4


def test_reshape_zeros_count_from_the_last_axis():
    x = torch.zeros(2, 3)
    assert OPS["reshape"](x, vector(1, 0, -1, 0)).shape == (1, 1, 2, 3)
    assert OPS["reshape"](x, vector(0, -1)).shape == (2, 3)
    assert OPS["reshape"](X, vector(6, 0)).shape == (6, 4)


def test_concat_interleaved_alternates():
    out = OPS["concat"]([torch.tensor([1, 2]), torch.tensor([3, 4])], scalar(0), interleave=True)
    assert out.tolist() == [1, 3, 2, 4]


def test_pad_reflects_without_the_edge_and_replicates_it():
    x = torch.tensor([1.0, 2.0, 3.0])
    assert OPS["pad"](x, vector(2, 1), mode="reflect").tolist() == [3, 2, 1, 2, 3, 2]
    assert OPS["pad"](x, vector(2, 1), mode="replicate").tolist() == [1, 1, 1, 2, 3, 3]


def test_space_and_depth_are_inverse_and_batch_too():
    x = torch.randn(2, 8, 4, 6)
    assert torch.equal(OPS["space_to_depth"](OPS["depth_to_space"](x, scalar(2)), scalar(2)), x)
    block, none = vector(2, 3), torch.zeros(2, 2, dtype=torch.int32)
    assert torch.equal(OPS["batch_to_space"](OPS["space_to_batch"](x, block, none), block, none), x)


def test_gather_with_batch_dims_takes_each_batch_its_own_rows():
    x = torch.arange(24).reshape(2, 3, 4)
    indices = torch.tensor([[2, 0], [1, 1]])
    out = OPS["gather"](x, indices, axis=1, batch_dims=1)
    assert torch.equal(out, torch.stack([x[0][[2, 0]], x[1][[1, 1]]]))
    nd = OPS["gather_nd"](x, indices[..., None], batch_dims=1)
    assert torch.equal(nd, out)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("update", [7, 2, 3]),
        ("add", [8, 2, 3]),
        ("sub", [-6, 2, 3]),
        ("mul", [7, 2, 3]),
        ("div", [1 / 7, 2, 3]),
        ("max", [7, 2, 3]),
        ("min", [1, 2, 3]),
    ],
)
def test_scatter_combines_by_mode(mode, expected):
    data, updates = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([7.0])
    assert OPS["scatter"](data, vector(0), updates, mode=mode).tolist() == pytest.approx(expected)
    assert OPS["scatter_nd"](data, vector(0)[:, None], updates, mode=mode).tolist() == pytest.approx(expected)
    assert OPS["scatter_along_axis"](data, vector(0), updates, mode=mode).tolist() == pytest.approx(expected)


def test_repeated_scatter_positions_add_up():
    assert OPS["scatter"](torch.zeros(2), vector(1, 1), torch.tensor([2.0, 3.0])).tolist() == [0, 5]


def test_validated_index_out_of_range_raises():
    with pytest.raises(UsageError, match="an index is outside"):
        OPS["gather"](torch.zeros(2), vector(2), validate_indices=True)


def test_topk_keeps_the_order_of_equal_values():
    values, indices = OPS["topk"](torch.tensor([1.0, 3.0, 3.0, 2.0]), k=3)
    assert (values.tolist(), indices.tolist()) == ([3, 3, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("UNALIGN_CORNERS", [0, 0.1, 0.5, 0.9, 1]),
        ("STRICT_ALIGN_CORNERS", [0, 0.25, 0.5, 0.75, 1]),
        ("DEFAULT", [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", [0.1, 0.3, 0.5, 0.7, 0.9]),
    ],
)
def test_resize_bilinear_samples_where_its_mode_says(mode, expected):
    """The grids of two pixels to five in Apple's documentation of resize_bilinear."""
    x = torch.tensor([0.0, 1.0]).reshape(1, 1, 2)
    out = OPS["resize_bilinear"](x, 1, 5, mode)
    assert out.flatten().tolist() == pytest.approx(expected)


def test_resize_nearest_rounds_where_the_older_operation_cuts():
    x = torch.tensor([1.0, 2.0]).reshape(1, 1, 2)
    assert OPS["resize"](x, vector(3), scalar(1), "NEAREST_NEIGHBOR").flatten().tolist() == [1, 2, 2]
    assert OPS["resize"](x, vector(4), scalar(1), "NEAREST_NEIGHBOR").flatten().tolist() == [1, 1, 2, 2]
    assert OPS["resize_nearest_neighbor"](x, 1, 3).flatten().tolist() == [1, 1, 2]


def test_products_take_integers_beside_floats():
    whole = torch.ones(2, 2, dtype=torch.int32)
    assert OPS["matmul"](whole, torch.full((2, 2), 0.5)).tolist() == [[1, 1], [1, 1]]
    assert OPS["linear"](torch.full((1, 2), 0.5), whole, vector(1, 2)).tolist() == [[2, 3]]


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(
    ("ours", "theirs"), [("constant", "zeros"), ("border", "border"), ("reflection", "reflection")]
)
def test_resample_with_corners_aligned_is_grid_sample(ours, theirs, align):
    if theirs == "reflection" and not align:
        pytest.skip("torch reflects at the pixels' edges here, MIL at their centres: symmetric is torch's")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 7, generator=generator)
    grid = torch.rand(2, 4, 6, 2, generator=generator) * 3 - 1.5
    out = OPS["resample"](x, grid, "bilinear", ours, scalar(0.0), "normalized_minus_one_to_one", scalar(align))
    torch.testing.assert_close(
        out, F.grid_sample(x, grid, "bilinear", theirs, align_corners=align), rtol=1e-4, atol=1e-5
    )


def test_crop_resize_of_a_whole_box_is_the_box():
    out = OPS["crop_resize"](
        X,
        boxes=torch.tensor([[0.0, 0.0, 2.0, 3.0]]),
        target_height=3,
        target_width=4,
        sampling_mode="STRICT_ALIGN_CORNERS",
    )
    torch.testing.assert_close(out, X)


def test_non_maximum_suppression_drops_overlaps_and_pads():
    boxes = torch.tensor([[[0.0, 0, 2, 2], [0.1, 0, 2, 2], [9, 9, 2, 2]]])
    scores = torch.tensor([[[0.9], [0.8], [0.7]]])
    kept, _, indices, count = OPS["non_maximum_suppression"](boxes, scores, 0.5, scalar(3), 0.1)
    assert indices.tolist() == [[0, 2, -1]]
    assert count.tolist() == [2]
    assert kept[0, 2].tolist() == [0, 0, 0, 0]


def test_quantize_rounds_and_saturates_and_dequantize_undoes_it():
    scale, zero = scalar(0.5), torch.tensor(10, dtype=torch.int8)
    steps = OPS["quantize"](torch.tensor([-1.0, 0.3, 99.0]), scale, "int8", zero)
    assert steps.tolist() == [8, 11, 127]
    assert OPS["dequantize"](steps.to(torch.int8), scale, zero).tolist() == [-1, 0.5, 58.5]


def test_blockwise_scales_apply_to_their_blocks():
    data = torch.tensor([[1, 2, 3, 4]], dtype=torch.int8)
    out = OPS["constexpr_blockwise_shift_scale"](data, torch.tensor([[2.0, 10.0]]), torch.tensor([[1, 0]]))
    assert out.tolist() == [[0, 2, 30, 40]]


def test_palettes_pick_by_group_and_fill_vectors():
    indices = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    groups = torch.tensor([[[[1.0], [2.0]]], [[[3.0], [4.0]]]])  # (2, 1, 2, 1): a palette per row
    assert OPS["constexpr_lut_to_dense"](indices, groups).tolist() == [[1, 2], [4, 3]]
    vectors = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # (1, 1, 2, 2)
    wide = OPS["constexpr_lut_to_dense"](indices, vectors, vector_axis=scalar(1))
    assert wide.tolist() == [[1, 2, 3, 4], [3, 4, 1, 2]]


def test_packed_palette_and_mask_of_ios16():
    """Two bits per index, low bits first: 0b_11_10_01_00 holds 0, 1, 2, 3."""
    packed = torch.tensor([0b11100100], dtype=torch.uint8)
    lut = torch.tensor([5.0, 6.0, 7.0, 8.0])
    assert OPS["constexpr_lut_to_dense"](packed, lut, shape=vector(2, 2)).tolist() == [[5, 6], [7, 8]]
    mask = torch.tensor([0b1010], dtype=torch.uint8)
    assert OPS["constexpr_sparse_to_dense"](lut[:2], mask, shape=vector(4)).tolist() == [0, 5, 0, 6]


def test_sparse_palette_widens_mask_and_values():
    mask = torch.tensor([[1, 0]], dtype=torch.uint8)
    lut = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    wide, values = OPS["constexpr_lut_to_sparse"](mask, torch.tensor([1], dtype=torch.uint8), lut, scalar(1))
    assert wide.tolist() == [[1, 1, 0, 0]]
    assert values.tolist() == [3, 4]


def test_layer_norm_over_the_channel_axis_is_that_of_the_moved_tensor():
    gamma, beta = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    moved = F.layer_norm(X.movedim(1, -1), (2,), gamma, beta).movedim(-1, 1)
    torch.testing.assert_close(OPS["layer_norm"](X, vector(1), gamma, beta), moved)


def test_reductions_and_argmax_drop_or_keep_axes():
    assert OPS["reduce_sum"](X, vector(1, -1)).shape == (1, 3)
    assert OPS["reduce_log_sum_exp"](X, keep_dims=True).shape == (1, 1, 1, 1)
    assert OPS["reduce_argmax"](X, axis=2).flatten().tolist() == [2] * 8


def test_cast_to_integers_truncates_and_mod_has_the_divisors_sign():
    assert OPS["cast"](torch.tensor([-1.7, 1.7]), "int32").tolist() == [-1, 1]
    assert OPS["mod"](torch.tensor([-1.0]), torch.tensor([3.0])).tolist() == [2]


def test_gelu_modes_differ():
    x = torch.tensor([1.0])
    exact, tanh, sigmoid = (
        float(OPS["gelu"](x, mode)) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
    )
    assert exact == pytest.approx(0.5 * (1 + math.erf(2**-0.5)))
    assert len({exact, tanh, sigmoid}) == 3
