"""BatchNorm folded into the convolution in front of it.

y = g * (W x + b - m) / sqrt(v + eps) + c is one convolution with W' = W * s and b' = (b - m) * s + c,
s = g / sqrt(v + eps) per output channel. Exact up to rounding; the fold is computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.program import module_path

if TYPE_CHECKING:
    from torch import Tensor, fx


@dataclass(frozen=True)
class FoldConvBatchNorm:
    """Folds every eval-mode BatchNorm whose input is a convolution that nothing else reads."""

    name: str = "fold_conv_bn"

    def apply(self, graph_module: fx.GraphModule) -> list[str]:
        """Returns the module path of each BatchNorm folded away."""
        import torch

        norms = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.batch_norm.default)
        places = [module_path(norm) for norm in norms if _fold(graph_module, norm)]
        graph_module.graph.eliminate_dead_code()
        graph_module.delete_all_unused_submodules()
        return places


FOLD_CONV_BN = FoldConvBatchNorm()


def _fold(graph_module: fx.GraphModule, norm: fx.Node) -> bool:
    import torch

    conv, *parameters, training, _momentum, eps, _cudnn = norm.args
    convolutions = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, torch.ops.aten.conv1d.default)
    if training or conv.op != "call_function" or conv.target not in convolutions or len(conv.users) != 1:
        return False
    weight_node = conv.args[1]
    if weight_node.op != "get_attr" or len(weight_node.users) != 1:  # a weight used elsewhere must stay
        return False
    weight = _tensor(graph_module, weight_node)
    bias = _tensor(graph_module, conv.args[2]) if len(conv.args) > 2 and conv.args[2] is not None else None
    gamma, beta, mean, variance = (None if node is None else _tensor(graph_module, node) for node in parameters)
    folded_weight, folded_bias = fold(weight, bias, gamma, beta, mean, variance, eps)

    # Named after the BatchNorm, which is gone, so that no attribute of the convolution is overwritten.
    prefix = module_path(norm).replace(".", "_") or norm.name
    with graph_module.graph.inserting_before(conv):
        new_weight = _parameter(graph_module, f"{prefix}_folded_weight", folded_weight)
        new_bias = _parameter(graph_module, f"{prefix}_folded_bias", folded_bias)
    conv.args = (conv.args[0], new_weight, new_bias, *conv.args[3:])
    conv.meta["val"] = norm.meta.get("val")
    norm.replace_all_uses_with(conv)
    graph_module.graph.erase_node(norm)
    return True


def fold(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Weight (O, ...) and bias (O,) of the one convolution that conv and BatchNorm make together."""
    scale = (variance.double() + eps).rsqrt()
    if gamma is not None:
        scale = scale * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    new_bias = shift * scale if beta is None else shift * scale + beta.double()
    per_channel = scale.reshape(-1, *[1] * (weight.dim() - 1))  # (O, 1, 1, 1)
    return (weight.double() * per_channel).to(weight.dtype), new_bias.to(weight.dtype)


def _tensor(graph_module: fx.GraphModule, node: fx.Node) -> Tensor:
    value: Any = graph_module
    for part in node.target.split("."):
        value = getattr(value, part)
    return value.detach()


def _parameter(graph_module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    import torch

    graph_module.register_parameter(name, torch.nn.Parameter(value))
    return graph_module.graph.get_attr(name)
