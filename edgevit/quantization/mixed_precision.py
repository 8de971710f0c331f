"""Mixed precision by an accuracy budget: the few layers whose int8 costs most are kept in float, and no others.

Layers are the modules of the network. The cost of int8 at one is measured with all others in float; then the costliest
are kept in float, as many as needed until the accuracy lost on held-out images is within the budget; last, those that
turn out not to be needed go to int8 again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.data.metrics import score
from edgevit.errors import QuantizationError
from edgevit.graph.dynamic_batch import any_batch
from edgevit.graph.edit import node_of, place
from edgevit.quantization.annotation import Annotation, origin
from edgevit.quantization.qat_model import quantizer_name, simulated
from edgevit.quantization.quantized_model import Int8Network

if TYPE_CHECKING:
    from torch import Tensor, fx

HEADER = ("layer", "SNR, alone in int8", "points, alone in int8", "operations")
_RANKED_ON = 128  # images: noise needs fewer of them than accuracy
_BATCH = 64


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What int8 at one layer alone does to the logits of the float network.

    place: the path of its module; nodes: its operations that can compute in int8. snr_db: of the logits, None where
    they stay equal; drop_percentage_points: top-1 or mIoU lost on the images of the ranking.
    """

    place: str
    nodes: tuple[str, ...]
    snr_db: float | None
    drop_percentage_points: float


@dataclass(frozen=True, slots=True)
class Budgeted:
    """An int8 network within its budget. Drops are percentage points of `metric` lost on held-out images.

    kept_in_float: the layers kept in float, the costliest first; candidates: how many layers could have been.
    """

    network: Int8Network
    metric: str
    kept_in_float: tuple[LayerCost, ...]
    candidates: int
    images: int
    drop_before: float
    drop: float

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{len(self.kept_in_float)} of {self.candidates} layers stay in float: {self.metric} {self.drop:.2f} "
            f"points below the float network on {self.images} held-out training images, {self.drop_before:.2f} all in "
            "int8"
        )


def row(cost: LayerCost) -> tuple[str, ...]:
    """The cells of HEADER."""
    closeness = "equal" if cost.snr_db is None else f"{cost.snr_db:.1f} dB"
    return cost.place, closeness, f"{cost.drop_percentage_points:.2f}", str(len(cost.nodes))


def fit_budget(
    network: Int8Network, images: Sequence[Tensor], targets: Sequence[int | Tensor], max_drop: float
) -> Budgeted:
    """Keep layers of an int8 network in float until it loses at most `max_drop` percentage points of top-1 or mIoU.

    images: normalised (3, S, S), with the class or the mask (S, S) of each; not the test images.
    Raises QuantizationError if not even all layers in float keep the budget.
    """
    trial = _Trial(network, images, targets)
    before = trial.drop(())
    chosen = _chosen(trial, max_drop) if before > max_drop else []
    result = network.with_float_fallback({name for cost in chosen for name in cost.nodes})
    return Budgeted(result, trial.metric, tuple(chosen), len(trial.layers), len(images), before, trial.drop(chosen))


def _chosen(trial: _Trial, max_drop: float) -> list[LayerCost]:
    """The fewest of the costliest layers that keep the budget, found by bisection, without those not needed."""
    costs = sorted(trial.costs(), key=lambda cost: math.inf if cost.snr_db is None else cost.snr_db)
    too_few, enough = 0, len(costs)
    if trial.drop(costs) > max_drop:
        raise QuantizationError(
            f"{trial.metric} drops by more than {max_drop:g} points with every layer in float",
            fix="allow a larger --max-drop, or calibrate on more images",
        )
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if trial.drop(costs[:middle]) <= max_drop:
            enough = middle
        else:
            too_few = middle
    chosen = costs[:enough]
    for cost in reversed(costs[:enough]):
        fewer = [other for other in chosen if other is not cost]
        if trial.drop(fewer) <= max_drop:
            chosen = fewer
    return chosen


class _Trial:
    """One trainable copy of the network whose quantizers are switched on and off; nothing is built twice."""

    def __init__(self, network: Int8Network, images: Sequence[Tensor], targets: Sequence[int | Tensor]) -> None:
        import torch

        self._network = network
        self._module = simulated(network)
        self._batches = [torch.stack(list(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)]
        self._target = torch.stack([torch.as_tensor(target) for target in targets]).numpy()
        self._annotation = network.annotation()
        self._quantizers = {name: self._module.get_submodule(name) for name in _quantizers(self._annotation)}
        self.layers = _layers(self._annotation)
        floats = any_batch(network.deployed)
        with torch.no_grad():
            self._wanted = torch.cat([floats(batch) for batch in self._batches])
        self.metric = next(iter(score(self._wanted.numpy(), self._target)))

    def drop(self, layers: Iterable[LayerCost]) -> float:
        """Percentage points below the float network on all images, with these layers in float too."""
        inner = self._network.with_float_fallback({name for cost in layers for name in cost.nodes})
        return self._points_lost(self._outputs(_quantizers(inner.annotation()), self._batches))

    def costs(self) -> list[LayerCost]:
        """What int8 does at each layer alone."""
        batches = self._batches[: max(1, _RANKED_ON // _BATCH)]
        found = []
        for path, nodes in self.layers.items():
            outputs = self._outputs({name for node in nodes for name in _around(node, self._annotation)}, batches)
            wanted = self._wanted[: len(outputs)].double()
            noise = float((outputs - wanted).square().sum() / wanted.square().sum())
            snr = None if noise == 0 else -10 * math.log10(noise)
            found.append(LayerCost(path, tuple(node.name for node in nodes), snr, self._points_lost(outputs)))
        return found

    def _outputs(self, active: Collection[str], batches: Sequence[Tensor]) -> Tensor:
        """Logits with only these quantizers active; the others become identities."""
        import torch

        for name, quantizer in self._quantizers.items():
            setattr(self._module, name, quantizer if name in active else torch.nn.Identity())
        with torch.no_grad():
            return torch.cat([self._module(batch) for batch in batches])

    def _points_lost(self, outputs: Tensor) -> float:
        target, wanted = self._target[: len(outputs)], self._wanted[: len(outputs)]
        before, after = (score(logits.numpy(), target)[self.metric] for logits in (wanted, outputs))
        return 100 * (before - after)


def _layers(annotation: Annotation) -> dict[str, list[fx.Node]]:
    """The operations in int8 by module; a fused activation belongs to the layer whose kernel applies it."""
    found: dict[str, list[fx.Node]] = {}
    for node in sorted((*annotation.weighted, *annotation.integer)):
        absorbing = _absorbed_by(node, annotation)
        found.setdefault(place(absorbing or node), []).append(node)
    return found


def _absorbed_by(node: fx.Node, annotation: Annotation) -> fx.Node | None:
    source = node.all_input_nodes[0]
    computes = source in annotation.weighted or source in annotation.integer
    return source if computes and source not in annotation.quantized else None


def _quantizers(annotation: Annotation) -> set[str]:
    """The submodules of a trainable network that quantize weights and tensors."""
    return {quantizer_name(node) for node in annotation.quantized} | {
        quantizer_name(node_of(node.args[1])) for node in annotation.weighted
    }


def _around(node: fx.Node, annotation: Annotation) -> set[str]:
    """The quantizers of what an operation reads and writes, as its kernel would have them."""
    ends = [origin(source) for source in node.all_input_nodes]
    ends += [node, *(user for user in node.users if _absorbed_by(user, annotation) is node)]
    names = {quantizer_name(end) for end in ends if end in annotation.quantized}
    return names | ({quantizer_name(node_of(node.args[1]))} if node in annotation.weighted else set())
