"""An int8 checkpoint as a model ready to convert."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.checkpoints.model_source import LoadedModel, load_model
from edgevit.errors import QuantizationError
from edgevit.quantization.quantized_model import Int8Network, ReferenceNetwork, refuse_without_graph, restore

if TYPE_CHECKING:
    import numpy as np
    from torch import fx, nn

    from edgevit.checkpoints.checkpoint import Checkpoint
    from edgevit.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """An int8 network with its spec, labels and the origin of its weights.

    module: its deployed graph with Q/DQ pairs. reference: the same in integer arithmetic, which artifacts are compared
    with. float_build: the deployed graph without pairs, with the dequantized weights; its artifacts, the fp32 reference
    builds, test the graph apart from int8.
    """

    network: Int8Network
    module: fx.GraphModule
    reference: ReferenceNetwork
    float_build: LoadedModel
    spec: ModelSpec
    labels: tuple[str, ...]
    weights: dict[str, Any]

    def run(self, tensor: np.ndarray) -> np.ndarray:
        """Normalised images (N, 3, H, W) to logits (N, ...), in integer arithmetic."""
        import torch

        with torch.no_grad():
            return self.reference(torch.from_numpy(tensor)).numpy()


def load_quantized_model(
    model: str | nn.Module,
    *,
    weights: str | Path | None,
    num_classes: int | None = None,
    input_size: int | None = None,
    labels: tuple[str, ...] = (),
    spec: ModelSpec | None = None,
    replace_head: bool = False,
) -> QuantizedModel:
    """The int8 network of a checkpoint; arguments as in `load_model`.

    Raises UsageError as `load_model` does, QuantizationError for weights without an int8 part, or with a damaged one.
    """
    from edgevit.checkpoints.checkpoint import read_checkpoint

    checkpoint = None if weights is None else read_checkpoint(weights)
    network = quantized_network(checkpoint)
    loaded = load_model(
        model,
        weights=checkpoint,
        num_classes=num_classes,
        input_size=input_size,
        labels=labels,
        spec=spec,
        replace_head=replace_head,
        float_part=True,
    )
    _require_input(network, loaded.spec)
    facts = loaded.weights | {"state_sha256": network.digest(), "quantization": _method(checkpoint)}
    return QuantizedModel(
        network,
        network.module(),
        ReferenceNetwork(network),
        dataclasses.replace(loaded, module=network.deployed, weights=facts, one_by_one=True),
        loaded.spec,
        loaded.labels,
        facts,
    )


def quantized_network(checkpoint: Checkpoint | None) -> Int8Network:
    """The int8 network that a checkpoint holds. Raises QuantizationError if it holds none, or a damaged one."""
    if checkpoint is None or checkpoint.int8 is None:
        raise QuantizationError(
            "without weights there is no int8 network" if checkpoint is None else f"{checkpoint.path} is not quantized",
            fix="make one: edgevit quantize MODEL --weights FLOAT --data DATA --out INT8, or edgevit qat",
        )
    if not checkpoint.int8.graph:
        raise refuse_without_graph(checkpoint.path)
    return restore(checkpoint.int8)


def _method(checkpoint: Checkpoint | None) -> Any:
    """How the int8 network was made: "PTQ", "QAT"."""
    facts = None if checkpoint is None or checkpoint.metadata is None else checkpoint.metadata.quantization
    return None if facts is None else facts["method"]


def _require_input(network: Int8Network, spec: ModelSpec) -> None:
    """The stored graph has one input shape; another requested size would be ignored."""
    stored = next(tuple(node.meta["val"].shape) for node in network.deployed.graph.nodes if node.op == "placeholder")
    if stored != spec.inputs[0].shape:
        raise QuantizationError(
            f"the int8 network takes {stored}, not {spec.inputs[0].shape}",
            fix="leave the input size out, or quantize the float checkpoint at that size",
        )
