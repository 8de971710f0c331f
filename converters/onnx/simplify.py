"""Simplifies an exported graph: folds constants, drops what does nothing, stores equal values once.

onnxscript's own optimizer does the same with one more rule, which replaces neighbouring slices by a split. It tries
every pair of slices of the graph: ten minutes for a kernel that is computed from the image, which reads thousands
of slices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir
    from onnxscript.rewriter import RewriteRule

_ROUNDS = 2  # the folding of one makes work for the rules of the next


def simplify(model: onnx_ir.Model) -> None:
    """Rewrite a model in place. Its inputs, its outputs and what it computes stay."""
    from onnx_ir.passes import PassManager, Sequential, common
    from onnxscript.optimizer import fold_constants
    from onnxscript.rewriter import RewritePass

    common.InlinePass()(model)
    unused = common.RemoveUnusedNodesPass(), common.RemoveUnusedFunctionsPass(), common.RemoveUnusedOpsetsPass()
    rules = PassManager([RewritePass(_rules()), *unused])
    for _ in range(_ROUNDS):
        folded = fold_constants(model, onnx_shape_inference=True)
        if not (rules(model).modified or folded.modified):
            break
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def _rules() -> list[RewriteRule]:
    """Those of onnxscript's optimizer in its order, but for `slice_split_rule`."""
    from onnxscript.rewriter.rules import common as rules

    return [
        *rules.mul_by_1_rule.commute(),
        *rules.add_0_rule.commute(),
        rules.sub_0_rule,
        rules.div_by_1_rule,
        rules.dropout_zero_rule,
        rules.dropout_inference_rule,
        rules.two_reshapes_matmul_reshape_rule,
        rules.one_reshape_matmul_reshape_rule,
        rules.cast_constant_of_shape_rule,
        rules.cast_constant_of_shape_without_value_rule,
        rules.collapse_slice_rule,
        rules.collapse_slice2_rule,
        rules.materialize_reshape_shape_rule,
        rules.min_min_rule,
        rules.max_max_rule,
        rules.min_max_rule,
        rules.max_min_rule,
        rules.successive_clip_relu_rule,
        rules.successive_relu_clip_rule,
        rules.successive_relu_rule,
        rules.successive_clip_rule,
        rules.cast_cast_rule,
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.flatten_to_reshape_rule,  # before the next, which takes what it makes
        rules.reshape_reshape_rule,
        rules.no_op_transpose_rule,
        rules.transpose_transpose_rule,
        rules.unsqueeze_unsqueeze_rule,
        rules.squeeze_reshape_1d_rule,
        rules.no_op_dynamic_scatter_nd_rule,
        rules.no_op_static_scatter_nd_rule,
        rules.normalize_pad_format_conv_rule,
        rules.normalize_pad_format_conv_integer_rule,
        rules.fuse_pad_into_conv_rule,
        rules.fuse_pad_into_conv_integer_rule,
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
        rules.remove_optional_bias_from_conv_rule,
        rules.remove_optional_bias_from_conv_transpose_rule,
        rules.remove_optional_bias_from_qlinear_conv_rule,
        rules.remove_optional_bias_from_gemm_rule,
    ]
