"""The quantization parameters that a file holds, and whether they equal exactly those that it was made from.

Converters read a `ModelQParams` back from their file, never from its manifest; `expected_qparams.py` makes the same of
a checkpoint and of a program. The comparison knows no target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgevit.errors import ContractError
from edgevit.quantization.qparams import QParams, QuantizedWeight

_SHOWN = 4  # differences that an error names


@dataclass(frozen=True, slots=True, eq=False)
class LayerQParams:
    """A convolution or linear layer with an int8 weight.

    weight: (O, I/groups, kH, kW) or (O, I). input and result: what it reads and writes, None for an end that is float;
    the result may stand behind a fused activation.
    """

    name: str
    weight: QuantizedWeight
    input: QParams | None
    result: QParams | None

    @property
    def in_int8(self) -> bool:
        """Whether it reads and writes int8 tensors."""
        return self.input is not None and self.result is not None

    @property
    def content(self) -> tuple[int, bytes, bytes]:
        """Equal for equal weights, also for a convolution and the same weight as a linear layer over im2col."""
        rows = np.moveaxis(self.weight.int_repr, 1, -1)  # (O, kH, kW, I/groups) or (O, I)
        return len(rows), rows.tobytes(), self.weight.scales.tobytes()

    @property
    def ends(self) -> tuple[QParams | None, QParams | None]:
        """What it reads and what it writes."""
        return self.input, self.result


@dataclass(frozen=True, slots=True)
class ModelQParams:
    """All quantization parameters of one network, and what stays in float.

    activations: those of each quantized tensor, by its name there. float_layers: convolutions and linear layers
    with float weights; averages (one output channel, equal weights that sum to one, as in LayerNorms) are apart.
    kept_in_float: the other operations that compute in float, by kind; data movement does not compute.
    """

    layers: tuple[LayerQParams, ...]
    activations: Mapping[str, QParams]
    float_layers: tuple[str, ...]
    averages: int
    kept_in_float: Mapping[str, int]

    def __bool__(self) -> bool:
        return bool(self.layers or self.activations)

    def summary(self) -> str:
        """ "148 of 148 convolutions and linear layers in int8, 8 averages and 25 other operations in float"."""
        done, total = sum(layer.in_int8 for layer in self.layers), len(self.layers) + len(self.float_layers)
        if not self.activations:
            return f"{len(self.layers)} of {total} convolutions and linear layers have int8 weights, computed in float"
        return (
            f"{done} of {total} convolutions and linear layers in int8, "
            f"{self.averages} averages and {sum(self.kept_in_float.values())} other operations in float"
        )

    def require_scheme(self, where: str) -> None:
        """Raise ContractError for the first weight or scale that no file of this scheme can hold."""
        for layer in self.layers:
            if not layer.weight.valid:
                raise ContractError(
                    f"{where}: the weight of {layer.name} is not symmetric int8 with float16 scales",
                    fix="convert again",
                )
        for name, qparams in self.activations.items():
            if not qparams.valid:
                raise ContractError(f"{where}: {name} has {qparams}, not of this int8 scheme", fix="convert again")


@dataclass(frozen=True, slots=True)
class QParamsComparison:
    """A file's quantization parameters against the expected ones.

    names: the expected name of each of the file's layers whose weight is exactly equal. weights and activations:
    (equal, expected). differences: a line for everything that is not as expected.
    """

    names: Mapping[str, str]
    weights: tuple[int, int]
    activations: tuple[int, int]
    differences: tuple[str, ...]
    coverage: str

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def summary(self) -> str:
        """One line for people: how many weights and activations are exactly equal, and the first differences."""
        line = (
            f"{self.weights[0]} of {self.weights[1]} weights and {self.activations[0]} of {self.activations[1]} "
            f"activation qparams bit-exact; {self.coverage}"
        )
        if self.equal:
            return line
        more = len(self.differences) - _SHOWN
        shown = "; ".join(self.differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        return f"{line}; {len(self.differences)} differences: {shown}"


def compare_qparams(stored: ModelQParams, expected: ModelQParams) -> QParamsComparison:
    """Compare the actual quantization parameters of a file with the expected ones.

    Layers are matched by their weights, so that a file may name them as it likes; the input and result of each must
    have the expected parameters. Those of all activations must be the same set. No more layers may be float than
    expected.
    """
    pairs = _matched(stored, expected)
    found, wanted = set(stored.activations.values()), set(expected.activations.values())
    return QParamsComparison(
        names={layer.name: other.name for layer, other in pairs},
        weights=(len(pairs), len(expected.layers)),
        activations=(sum(qparams in found for qparams in expected.activations.values()), len(expected.activations)),
        differences=tuple(_differences(stored, expected, pairs, found, wanted)),
        coverage=stored.summary(),
    )


def _matched(stored: ModelQParams, expected: ModelQParams) -> list[tuple[LayerQParams, LayerQParams]]:
    """The file's layers with the expected ones of equal weight: first those whose ends agree too, then the others."""
    pairs: list[tuple[LayerQParams, LayerQParams]] = []
    left, waiting = list(stored.layers), list(expected.layers)
    for identity in (lambda layer: (layer.content, layer.ends), lambda layer: layer.content):
        known: dict[object, list[LayerQParams]] = {}
        for layer in waiting:
            known.setdefault(identity(layer), []).append(layer)
        unmatched = []
        for layer in left:
            candidates = known.get(identity(layer))
            if candidates:
                pairs.append((layer, candidates.pop(0)))
            else:
                unmatched.append(layer)
        left, waiting = unmatched, [layer for candidates in known.values() for layer in candidates]
    return pairs


def _differences(
    stored: ModelQParams,
    expected: ModelQParams,
    pairs: list[tuple[LayerQParams, LayerQParams]],
    found: set[QParams],
    wanted: set[QParams],
) -> Iterator[str]:
    known, matched = {layer.name for layer, _ in pairs}, {other.name for _, other in pairs}
    for layer in expected.layers:
        if layer.name not in matched:
            yield f"no weight is that of {layer.name} {layer.weight.int_repr.shape}"
    for layer in stored.layers:
        if layer.name not in known:
            yield f"the weight of {layer.name} {layer.weight.int_repr.shape} is none of the expected ones"
    for layer, other in pairs:
        for end, qparams, due in zip(("reads", "writes"), layer.ends, other.ends, strict=True):
            if qparams != due:
                yield f"{other.name} {end} {qparams or 'float'}, not {due or 'float'}"
    for name, qparams in expected.activations.items():
        if qparams not in found:
            yield f"no tensor has {qparams}, the qparams of {name}"
    for name, qparams in stored.activations.items():
        if qparams not in wanted:
            yield f"{name} has {qparams}, which was not expected"
    if len(stored.float_layers) > len(expected.float_layers):
        yield f"{len(stored.float_layers)} layers compute with float weights: {', '.join(stored.float_layers[:_SHOWN])}"


def canonical_weight(stored: np.ndarray, channel_axis: int) -> np.ndarray:
    """A weight in our axis order, from that of channels-last runtimes.

    (O, kH, kW, I/groups) with channels at 0, or depthwise (1, kH, kW, O) with channels at 3, becomes
    (O, I/groups, kH, kW); of a matrix, the channels come first: (O, I).
    """
    if stored.ndim == 4:
        order = (0, 3, 1, 2) if channel_axis == 0 else (3, 0, 1, 2)
        return np.ascontiguousarray(stored.transpose(order))
    return np.ascontiguousarray(np.moveaxis(stored, channel_axis, 0))


def is_average(weight: np.ndarray) -> bool:
    """Whether a float weight (1, ...) of one output channel takes the mean of what it reads."""
    flat = weight.reshape(-1).astype(np.float64)
    return bool(len(weight) == 1 and (flat == flat[0]).all() and abs(flat.sum() - 1) < 1e-3)


def count_kinds(kinds: Iterable[str]) -> dict[str, int]:
    """How often each kind occurs, sorted."""
    return dict(sorted(Counter(kinds).items()))
