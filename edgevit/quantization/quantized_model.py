"""The int8 network: its deployed graph with its quantization parameters, and how a checkpoint stores both."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.contract.manifest import AppliedPass, applied_pass_from_json
from edgevit.deploy.pass_manager import PASSES, deploy
from edgevit.deploy.passes.channel_scale_to_depthwise import CHANNEL_SCALE_TO_DEPTHWISE
from edgevit.deploy.passes.decompose_silu import DECOMPOSE_SILU
from edgevit.deploy.passes.isolate_concat_inputs import ISOLATE_CONCAT_INPUTS
from edgevit.errors import QuantizationError
from edgevit.graph.dynamic_batch import QDQ_OPS, any_batch, sum_alone
from edgevit.graph.edit import Graph, node_of, source_of
from edgevit.graph.serialization import graph_from_json, graph_to_json
from edgevit.quantization.annotation import Annotation, annotate, keep_annotation, origin
from edgevit.quantization.qdq import insert_qdq
from edgevit.quantization.qparams import QParams, QParamsTable, QuantizedWeight

if TYPE_CHECKING:
    from torch import Tensor, fx, nn
    from torch.fx.node import Argument

    from edgevit.checkpoints.checkpoint import Int8Part
    from edgevit.spec import ModelSpec

# One deployed form for all targets: the quantization parameters belong to its tensors.
INT8_PASSES = (*PASSES, CHANNEL_SCALE_TO_DEPTHWISE, DECOMPOSE_SILU, ISOLATE_CONCAT_INPUTS)

FORMAT = 1  # of the graph in a checkpoint; loading refuses others
MAX_GRAPH_BYTES = 64 * 2**20
_QUANTIZE_AGAIN = "make it again: edgevit quantize MODEL --weights FLOAT --data DATA --out INT8"
_FEW, _TOGETHER = 8, 16  # images: run one by one, and at once


@dataclass(frozen=True, slots=True)
class Int8Network:
    """A deployed float graph (batch 1) and the quantization parameters of its tensors.

    passes: those applied to make it. The float weights of quantized layers are the dequantized ones.
    """

    deployed: fx.GraphModule
    table: QParamsTable
    passes: tuple[AppliedPass, ...]

    @classmethod
    def settled(cls, deployed: fx.GraphModule, table: QParamsTable, passes: tuple[AppliedPass, ...]) -> Int8Network:
        """With the biases of `deployed` rounded in place, as integer kernels add them (`quantize_bias`)."""
        import torch

        from edgevit.quantization.integer_arithmetic import quantize_bias

        graph = Graph(deployed)
        for node in annotate(graph, table.float_fallback).weighted:
            bias = node.args[2] if len(node.args) > 2 else None
            if bias is not None:
                scale = table.activations[origin(source_of(node)).name].scale
                scales = torch.from_numpy(table.weights[node.name].scales)
                _write(graph, bias, quantize_bias(graph.constant_value(bias), scale, scales))
        return cls(deployed, table, passes)

    def module(self) -> fx.GraphModule:
        """The network that is exported: int8 weights, a Q/DQ pair at every quantized tensor."""
        return insert_qdq(self.deployed, self.table)

    def reference(self, *, batched: bool = False) -> fx.GraphModule:
        """The same network in integer arithmetic: what outputs of artifacts are compared with.

        It takes one image (1, 3, S, S), or with `batched` any number (N, 3, S, S).
        """
        import torch

        from edgevit.quantization.integer_arithmetic import in_integers, integer_sites

        module = any_batch(self.module(), QDQ_OPS) if batched else self.module()
        activations = {name: torch.tensor([qparams.scale]) for name, qparams in self.table.activations.items()}
        weights = {name: torch.from_numpy(weight.scales) for name, weight in self.table.weights.items()}
        constant = ({name: scale.detach for name, scale in scales.items()} for scales in (activations, weights))
        in_integers(module, integer_sites(self.deployed, self.annotation()), *constant)
        if batched:
            sum_alone(module)
        return module

    def annotation(self) -> Annotation:
        """Which operations compute in int8, and which tensors are quantized."""
        return annotate(Graph(self.deployed), self.table.float_fallback)

    def with_float_fallback(self, names: Collection[str]) -> Int8Network:
        """The same network with these nodes kept in float too, without the quantization parameters no longer used."""
        table = self.table
        float_fallback = table.float_fallback | set(names)
        annotation = annotate(Graph(self.deployed), float_fallback)
        return Int8Network(
            self.deployed,
            QParamsTable(
                {node.name: table.activations[node.name] for node in annotation.quantized},
                {node.name: table.weights[node.name] for node in annotation.weighted},
                float_fallback,
            ),
            self.passes,
        )

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores: int8 weights with their scales by node, all other parameters by name."""
        import torch

        graph = Graph(self.deployed)
        weighted = {node_of(node.args[1]).target for node in self.annotation().weighted}
        stored = {}
        for name, weight in self.table.weights.items():
            stored[f"{name}.int_repr"] = torch.from_numpy(weight.int_repr)
            stored[f"{name}.scales"] = torch.from_numpy(weight.scales)
        for node in graph.nodes:
            if node.op == "get_attr" and node.target not in weighted:
                stored[f"float.{node.target}"] = graph.constant_value(node).clone()
        return stored

    def to_json(self) -> str:
        """All but the tensors as plain data: the graph, what is quantized in it and how, and the applied passes.

        Raises ExportError for an operation that a checkpoint cannot store.
        """
        document = {
            "format": FORMAT,
            "graph": graph_to_json(self.deployed),
            "annotation": self.annotation().to_json(),
            "activations": {name: [q.scale, q.zero_point] for name, q in self.table.activations.items()},
            "float_fallback": sorted(self.table.float_fallback),
            "passes": [dataclasses.asdict(applied) for applied in self.passes],
        }
        return json.dumps(document, allow_nan=False)

    def checkpoint_part(self) -> Int8Part:
        """The network as a checkpoint stores it; `restore` reads it. Raises ExportError as `to_json` does."""
        from edgevit.checkpoints.checkpoint import Int8Part

        return Int8Part(self.to_json(), self.tensors())

    def digest(self) -> str:
        """SHA-256 over all that the network computes with: equal digests, equal outputs."""
        document = json.loads(self.to_json())
        del document["passes"]
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


class ReferenceNetwork:
    """An int8 network's outputs in integer arithmetic, for one image or many: `Int8Network.reference` on each alone.

    Its batched form takes seconds to build and is faster then, so it is built for the first call with many images.
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
    """The deployed form of a trained float network that int8 starts from, and the applied passes."""
    return deploy(module, spec, INT8_PASSES)


def restore(part: Int8Part) -> Int8Network:
    """The network that a checkpoint stores: its own graph, independent of the passes of this version.

    Raises QuantizationError for a text or tensors that are damaged, too large, or of another format.
    """
    if len(part.graph) > MAX_GRAPH_BYTES:
        size = f"{len(part.graph)} characters, more than {MAX_GRAPH_BYTES}"
        raise QuantizationError(f"the checkpoint's int8 graph has {size}", fix="do not use this file")
    try:
        document = json.loads(part.graph)  # integers up to 2^63 - 1, an open end of aten.slice: no contract document
        if type(document["format"]) is not int or document["format"] != FORMAT:
            raise QuantizationError(
                f"the checkpoint's int8 graph has format {document['format']!r}, this edgevit reads {FORMAT}",
                fix=_QUANTIZE_AGAIN,
            )
        network = _restored(document, part.tensors)
        _require_runs(network)
    except QuantizationError:
        raise
    except Exception as error:  # torch raises many unrelated types for a graph that does not run
        reason = " ".join(f"the checkpoint's int8 graph is damaged: {error}".split())[:300]
        raise QuantizationError(reason, fix=_QUANTIZE_AGAIN) from error
    return network


def refuse_without_graph(where: object) -> QuantizationError:
    """The error for an int8 checkpoint of a version that did not store the graph yet."""
    return QuantizationError(
        f"{where} is an int8 checkpoint of an edgevit that did not store the graph yet", fix=_QUANTIZE_AGAIN
    )


def _restored(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Int8Network:
    import torch

    names = set(document["annotation"]["weighted"])
    weights = {
        name: QuantizedWeight(tensors[f"{name}.int_repr"].numpy(), tensors[f"{name}.scales"].numpy()) for name in names
    }
    constants = {key.removeprefix("float."): value for key, value in tensors.items() if key.startswith("float.")}
    nodes = document["graph"]["nodes"]
    targets = {node["name"]: node["constant"] for node in nodes if "constant" in node}
    for node in nodes:
        if node.get("name") in names:
            weight = weights[node["name"]]
            _require_weight(node["name"], weight)
            constants[targets[node["arguments"][1]["node"]]] = torch.from_numpy(weight.dequantize())
    deployed = graph_from_json(document["graph"], constants)
    float_fallback = frozenset(map(str, document["float_fallback"]))
    keep_annotation(deployed, document["annotation"], float_fallback)
    activations = {name: _qparams(*numbers) for name, numbers in document["activations"].items()}
    ordered = {node.name: weights[node.name] for node in deployed.graph.nodes if node.name in names}
    table = QParamsTable(activations, ordered, float_fallback)
    passes = tuple(map(applied_pass_from_json, document["passes"]))
    return Int8Network(deployed, table, passes)


def _qparams(scale: Any, zero_point: Any) -> QParams:
    """A scale and a zero point that are numbers; whether they are good ones the table checks."""
    if type(scale) not in (int, float) or type(zero_point) is not int:
        raise ValueError(f"a tensor has the scale {scale!r} and the zero point {zero_point!r}"[:120])
    return QParams(float(scale), zero_point)


def _require_runs(network: Int8Network) -> None:
    """Run one black image in integer arithmetic: nothing else shows that all parts of a network fit together."""
    import torch

    inputs = [node.meta["val"] for node in network.deployed.graph.find_nodes(op="placeholder")]
    if len(inputs) != 1 or inputs[0].dim() != 4:
        raise ValueError("the graph does not take one image")
    with torch.no_grad():
        output = network.reference()(torch.zeros(inputs[0].shape, dtype=inputs[0].dtype))
    if not isinstance(output, torch.Tensor):
        raise ValueError("the graph does not give one tensor")


def _require_weight(name: str, weight: QuantizedWeight) -> None:
    stored = weight.int_repr.dtype == "int8" and weight.scales.dtype == "float32"
    if not stored or weight.scales.shape != weight.int_repr.shape[:1] or not weight.valid:
        raise ValueError(f"the weight of {name} is not symmetric int8 with a float16 scale per output channel")


def _write(graph: Graph, node: Argument, value: Tensor) -> None:
    import torch

    with torch.no_grad():
        graph.parameter(node).copy_(value)
