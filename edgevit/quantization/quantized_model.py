"""The int8 network of a checkpoint: its deployed graph, its scale table, and how both are stored and found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.contract.manifest import AppliedPass
from edgevit.deploy.pass_manager import PASSES, deploy
from edgevit.deploy.passes.channel_scale_to_depthwise import SCALE_CONVOLUTIONS
from edgevit.deploy.passes.decompose_silu import SPLIT_SILU
from edgevit.deploy.passes.isolate_concat_inputs import SEPARATE_SKIPS
from edgevit.errors import QuantizationError
from edgevit.graph.dynamic_batch import QDQ_OPS, any_batch, sum_alone
from edgevit.graph.edit import Graph
from edgevit.quantization.annotation import Annotation, annotate, origin
from edgevit.quantization.qdq import insert_qdq
from edgevit.quantization.qparams import QParams, QParamsTable, QuantizedWeight

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

    from edgevit.spec import ModelSpec

# One deployment form for all targets: the scales belong to its tensors.
INT8_PASSES = (*PASSES, SCALE_CONVOLUTIONS, SPLIT_SILU, SEPARATE_SKIPS)

_FEW, _TOGETHER = 8, 16  # images: answered one by one, and at once


@dataclass(frozen=True, slots=True)
class Int8Network:
    """A deployed float graph (batch 1) and the grids of its tensors.

    steps: what the deploy passes did. The float weights of layers that have a grid are those of the grid.
    """

    deployed: fx.GraphModule
    table: QParamsTable
    steps: tuple[AppliedPass, ...]

    @classmethod
    def settled(cls, deployed: fx.GraphModule, table: QParamsTable, steps: tuple[AppliedPass, ...]) -> Int8Network:
        """With the biases of `deployed`, in place, on the grid of the products that they are added to."""
        from edgevit.quantization.integer_arithmetic import quantize_bias

        graph = Graph(deployed)
        for node in annotate(graph, table.float_fallback).weighted:
            bias = node.args[2] if len(node.args) > 2 else None
            if bias is not None:
                data = table.activations[origin(node.args[0]).name].scale
                _write(graph, bias, quantize_bias(graph.value(bias), data, table.weights[node.name].scales))
        return cls(deployed, table, steps)

    def module(self) -> fx.GraphModule:
        """The network that leaves the pipeline: int8 weights, every grid a quantize and dequantize pair."""
        return insert_qdq(self.deployed, self.table)

    def reference(self, *, batched: bool = False) -> fx.GraphModule:
        """The same network in the arithmetic of integer kernels: what answers of artifacts are compared with.

        It takes one image (1, 3, S, S), or with `batched` any number (N, 3, S, S).
        """
        import torch

        from edgevit.quantization.integer_arithmetic import in_integers, integer_sites

        module = any_batch(self.module(), QDQ_OPS) if batched else self.module()
        activations = {name: torch.tensor([qparams.scale]) for name, qparams in self.table.activations.items()}
        weights = {name: qparams.scales for name, qparams in self.table.weights.items()}
        constant = ({name: scale.detach for name, scale in scales.items()} for scales in (activations, weights))
        in_integers(module, integer_sites(self.deployed, self.annotation()), *constant)
        if batched:
            sum_alone(module)
        return module

    def annotation(self) -> Annotation:
        """Where the grids stand."""
        return annotate(Graph(self.deployed), self.table.float_fallback)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores: int8 weights with their scales by node, all other parameters by name."""
        graph = Graph(self.deployed)
        weighted = {node.name: node.args[1].target for node in self.annotation().weighted}
        stored = {}
        for name, qparams in self.table.weights.items():
            stored[f"{name}.values"], stored[f"{name}.scales"] = qparams.values, qparams.scales
        for node in graph.nodes:
            if node.op == "get_attr" and node.target not in weighted.values():
                stored[f"float.{node.target}"] = graph.value(node).clone()
        return stored

    def with_float_fallback(self, float_fallback: Collection[str]) -> Int8Network:
        """The same network with these nodes in float too, and without the grids that nothing needs any more."""
        table = self.table
        float_fallback = table.float_fallback | set(float_fallback)
        annotation = annotate(Graph(self.deployed), float_fallback)
        return Int8Network(
            self.deployed,
            QParamsTable(
                {node.name: table.activations[node.name] for node in annotation.qparams},
                {node.name: table.weights[node.name] for node in annotation.weighted},
                float_fallback,
            ),
            self.steps,
        )

    def activations(self) -> dict[str, list[float]]:
        """Scale and zero point by node, for a checkpoint's card."""
        return {name: [qparams.scale, qparams.zero_point] for name, qparams in self.table.activations.items()}

    def digest(self) -> str:
        """SHA-256 over all that the network computes with: equal digests, equal answers."""
        digest = hashlib.sha256(json.dumps(self.activations(), sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


class ReferenceNetwork:
    """An int8 network's answers in integers, to one image or many: what `Int8Network.reference` gives to each alone.

    Its form for batches is made once more than a few images come: it takes seconds, and then a fraction of the time.
    """

    def __init__(self, network: Int8Network) -> None:
        self._network = network
        self._alone = network.reference()
        self._together: fx.GraphModule | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) to logits (N, ...)."""
        import torch

        if len(images) <= _FEW:
            return torch.cat([self._alone(image[None]) for image in images])
        if self._together is None:
            self._together = self._network.reference(batched=True)
        return torch.cat([self._together(part) for part in images.split(_TOGETHER)])


def prepare(module: nn.Module, spec: ModelSpec) -> tuple[fx.GraphModule, tuple[AppliedPass, ...]]:
    """The deployed form of a trained float network that int8 starts from, and what made it."""
    return deploy(module, spec, INT8_PASSES)


def restore(
    module: nn.Module,
    spec: ModelSpec,
    tensors: Mapping[str, Tensor],
    activations: Mapping[str, Any],
    float_fallback: Collection[str] = (),
) -> Int8Network:
    """The network that `tensors()`, `activations()` and its islands came from; module: its float network.

    Raises QuantizationError if they do not fit the graph that this version of edgevit makes of `module`.
    """
    import torch

    deployed, steps = prepare(module, spec)
    graph = Graph(deployed)
    weights = {}
    for name in set(float_fallback) - {node.name for node in graph.nodes}:
        raise _other_graph(name)
    for node in annotate(graph, float_fallback).weighted:
        try:
            weights[node.name] = QuantizedWeight(tensors[f"{node.name}.values"], tensors[f"{node.name}.scales"])
        except KeyError:
            raise _other_graph(node.name) from None
        if weights[node.name].values.shape != graph.parameter(node.args[1]).shape:
            raise _other_graph(node.name)
        _write(graph, node.args[1], weights[node.name].real())
    kept = {node.target: node for node in graph.nodes if node.op == "get_attr"}
    with torch.no_grad():
        for name, node in kept.items():
            if f"float.{name}" in tensors:
                _write(graph, node, tensors[f"float.{name}"])
    qparams = {name: QParams(float(scale), int(zero)) for name, (scale, zero) in activations.items()}
    return Int8Network(deployed, QParamsTable(qparams, weights, frozenset(float_fallback)), steps)


def _write(graph: Graph, node: fx.Node, value: Tensor) -> None:
    import torch

    parameter = graph.parameter(node)
    if parameter.shape != value.shape:
        raise _other_graph(node.name)
    with torch.no_grad():
        parameter.copy_(value)


def _other_graph(name: str) -> QuantizationError:
    return QuantizationError(
        f"the checkpoint's int8 part does not fit its network: {name}",
        fix="it was made by another version of edgevit; quantize the float checkpoint again",
    )
