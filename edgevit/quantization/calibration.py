"""Post-training quantization by NNCF: ranges from images, and bias correction.

NNCF gets the tensors to quantize, measures their ranges and corrects biases; its numbers become a `QParamsTable`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgevit.compat.nncf import quantize_at
from edgevit.errors import QuantizationError
from edgevit.graph.edit import Graph, argument, node_of, shape
from edgevit.quantization.annotation import Annotation, annotate
from edgevit.quantization.qparams import QParams, QParamsTable, QuantizedWeight

if TYPE_CHECKING:
    from torch import Tensor, fx

    Range = tuple[float, float]


def calibrate(
    deployed: fx.GraphModule, images: Sequence[Tensor], input_range: Range | None = None
) -> tuple[fx.GraphModule, QParamsTable]:
    """Calibrate the quantization parameters of a deployed graph on images, float32 tensors (1, 3, S, S).

    input_range: the range of the input, known from preprocessing; measured without it.
    Returns a copy of the graph with corrected biases, and its table of quantization parameters. Raises
    QuantizationError for images that are not finite or all the same.
    """
    from edgevit.quantization.integer_arithmetic import coarse_enough

    _require_variety(images)
    graph = Graph(copy.deepcopy(deployed))
    annotation = annotate(graph)
    vectors = [node for node in annotation.quantized if _is_vector(node)]
    measured = _quantized_by_nncf(graph, annotation, vectors, images)
    ranges = {node.name: _range(measured[node.name]) for node in annotation.quantized if node not in vectors}
    ranges |= _extremes(graph, vectors, images)
    if input_range is not None:
        ranges |= {node.name: input_range for node in annotation.quantized if node.op == "placeholder"}
    for group in annotation.shared:
        union = min(ranges[name][0] for name in group), max(ranges[name][1] for name in group)
        ranges.update(dict.fromkeys(group, union))
    for node in annotation.weighted:
        _take_bias(graph, node, measured[node.name])
    table = QParamsTable(
        activations={name: QParams.over(*ends) for name, ends in ranges.items()},
        weights={node.name: QuantizedWeight.of(graph.constant_value(node.args[1])) for node in annotation.weighted},
    )
    return graph.module, coarse_enough(graph.module, annotation, table)


def _require_variety(images: Sequence[Tensor]) -> None:
    import torch

    if not images:
        raise QuantizationError("no images to measure ranges on", fix="give a data set with --data")
    if not all(torch.isfinite(image).all() for image in images):
        raise QuantizationError("a calibration image is not finite", fix="check the preprocessing")
    if all(torch.equal(image, images[0]) for image in images) and len(images) > 1:
        raise QuantizationError(
            f"all {len(images)} calibration images are the same", fix="give images like those of the task"
        )


def _is_vector(node: fx.Node) -> bool:
    """Whether a result has one value per channel, as pooled feature maps and logits have.

    NNCF averages the per-image extremes, each over all pixels. A vector has no pixels: what half of the images reach
    would be clipped.
    """
    sizes = shape(node)
    return math.prod(sizes) == max(sizes, default=1)


def _extremes(graph: Graph, nodes: Sequence[fx.Node], images: Sequence[Tensor]) -> dict[str, Range]:
    """The range of results over all images, by node name."""
    import torch

    names = {node.name for node in nodes}
    found: dict[str, Range] = {}

    class Spans(torch.fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n.name in names:
                low, high = found.get(n.name, (math.inf, -math.inf))
                found[n.name] = min(low, float(result.min())), max(high, float(result.max()))
            return result

    with torch.no_grad():
        for image in images:
            Spans(graph.module).run(image)
    return found


def _quantized_by_nncf(
    graph: Graph, annotation: Annotation, vectors: Sequence[fx.Node], images: Sequence[Tensor]
) -> dict[str, fx.Node]:
    """The nodes of NNCF's quantized copy of the graph, by name; `meta` of constants holds their tensors.

    vectors: tensors that NNCF does not quantize, so that it corrects no bias for values that it would clip.
    """
    model = copy.deepcopy(graph.module)
    own = Graph(model)
    for node in model.graph.nodes:
        if node.op == "get_attr":
            node.meta["val"] = own.value(node)
    activations = [node.name for node in annotation.quantized if node not in vectors]
    quantized = quantize_at(model, activations, [node.name for node in annotation.weighted], images)
    nodes = {node.name: node for node in quantized.graph.nodes}
    for node in nodes.values():
        if node.op == "get_attr":
            node.meta["val"] = _tensor(quantized, node.target)
    return nodes


def _range(node: fx.Node) -> Range:
    """The range that NNCF measured for a node's result, from the quantize node behind it."""
    (stored,) = (user for user in node.users if "quantize_per_tensor" in str(user.target))
    scale, zero_point, low, high = (argument(stored, position) for position in (1, 2, 3, 4))
    return scale * (low - zero_point), scale * (high - zero_point)


def _take_bias(graph: Graph, node: fx.Node, corrected: fx.Node) -> None:
    """Copy the bias that NNCF corrected in its own graph."""
    import torch

    bias = node.args[2] if len(node.args) > 2 else None
    if bias is not None:
        with torch.no_grad():
            graph.parameter(bias).copy_(node_of(corrected.args[2]).meta["val"].reshape(-1))


def _tensor(module: fx.GraphModule, target: str) -> Tensor:
    import operator

    return operator.attrgetter(target)(module).detach()
