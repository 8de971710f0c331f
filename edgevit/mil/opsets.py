"""Which ML Program op came with which op set, and which specification version brought which op set."""

from __future__ import annotations

# Deployment target -> specification version that coremltools 9.0 writes for it.
SPEC_VERSIONS = {"iOS15": 6, "iOS16": 7, "iOS17": 8, "iOS18": 9, "iOS26": 10}
# Op set of a block -> the specification version it needs.
OPSETS = {"CoreML5": 6, "CoreML6": 7, "CoreML7": 8, "CoreML8": 9, "CoreML9": 10}
_NEW_OPS = {
    6: """abs acos add affine argsort asin atan atanh avg_pool band_part batch_norm batch_to_space cast ceil
        clamped_relu classify clip concat cond const conv conv_quantized conv_transpose cos cosh crop crop_resize
        cumsum depth_to_space einsum elu equal erf exp exp2 expand_dims fill flatten2d floor floor_div gather
        gather_along_axis gather_nd gelu greater greater_equal gru identity instance_norm inverse l2_norm l2_pool
        layer_norm leaky_relu less less_equal linear linear_activation list_gather list_length list_read
        list_scatter list_write local_response_norm log logical_and logical_not logical_or logical_xor lstm
        make_list matmul max_pool maximum minimum mod mul non_maximum_suppression non_zero not_equal one_hot pad
        pixel_shuffle pow prelu random_bernoulli random_categorical random_normal random_uniform range_1d real_div
        reduce_argmax reduce_argmin reduce_l1_norm reduce_l2_norm reduce_log_sum reduce_log_sum_exp reduce_max
        reduce_mean reduce_min reduce_prod reduce_sum reduce_sum_square relu relu6 resample reshape resize_bilinear
        resize_nearest_neighbor reverse reverse_sequence rnn round rsqrt scaled_tanh scatter scatter_along_axis
        scatter_nd select shape sigmoid sigmoid_hard sign silu sin sinh slice_by_index slice_by_size
        sliding_windows softmax softplus softplus_parametric softsign space_to_batch space_to_depth split sqrt
        square squeeze stack sub tan tanh threshold thresholded_relu tile topk transpose upsample_bilinear
        upsample_nearest_neighbor while_loop""",
    7: """constexpr_affine_dequantize constexpr_cast constexpr_lut_to_dense constexpr_sparse_to_dense fill_like
        pixel_unshuffle reshape_like""",
    8: "dequantize quantize resize",
    9: """constexpr_blockwise_shift_scale constexpr_lut_to_sparse constexpr_sparse_blockwise_shift_scale
        coreml_update_state read_state scaled_dot_product_attention slice_update write_state""",
}
# Op type -> the specification version that brought it.
INTRODUCED = {op: version for version, names in _NEW_OPS.items() for op in names.split()}


def deployment_target(spec_version: int) -> str:
    """ "iOS17" for 8; "unknown" for versions that are not in the table."""
    return next((target for target, version in SPEC_VERSIONS.items() if version == spec_version), "unknown")
