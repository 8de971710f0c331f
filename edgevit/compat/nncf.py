"""NNCF, opened quietly: no telemetry, no progress bars, no warnings about what it calls experimental.

Its public functions choose by rules of their own what is quantized. To name the places, and to train quantizers and
masks, takes modules that NNCF does not document.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgevit.infra.optional_imports import require

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

_TELEMETRY = "openvino_telemetry"


def open_nncf(module: str = "nncf") -> ModuleType:
    """Import NNCF or one of its modules. Raises MissingDependency if it is not installed.

    NNCF reports its use over the network where openvino-telemetry can be imported; here it cannot.
    """
    with quiet_nncf():
        if "nncf" not in sys.modules:
            loaded: dict[str, Any] = sys.modules
            known = loaded.get(_TELEMETRY)
            loaded[_TELEMETRY] = None  # what Python finds there it takes for a missing module
            try:
                require("nncf", "quantize")
            finally:
                del loaded[_TELEMETRY]
                if known is not None:
                    loaded[_TELEMETRY] = known
        return require(module, "quantize")


@contextmanager
def quiet_nncf() -> Iterator[None]:
    """Keep progress bars, notes to developers and warnings of NNCF and what it imports off the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def quantizer_type(*, symmetric: bool) -> type[nn.Module]:
    """NNCF's trainable quantizer: parameters `scale` if symmetric, else `input_low` and `input_range`."""
    layers = open_nncf("nncf.torch.quantization.layers")
    return layers.SymmetricQuantizer if symmetric else layers.AsymmetricQuantizer


def quantizer_spec(shape: tuple[int, ...], *, symmetric: bool, narrow_range: bool) -> Any:
    """What such a quantizer is made from: signed int8, parameters of `shape`; narrow_range: without -128."""
    schemes = open_nncf("nncf.common.quantization.structs").QuantizationScheme
    return open_nncf("nncf.torch.quantization.layers").PTQuantizerSpec(
        num_bits=8,
        mode=schemes.SYMMETRIC if symmetric else schemes.ASYMMETRIC,
        signedness_to_force=True,
        narrow_range=narrow_range,
        half_range=False,
        scale_shape=shape,
        logarithm_scale=False,
    )


def quantize_at(
    model: fx.GraphModule, activations: Sequence[str], weighted: Sequence[str], images: Iterable[Tensor]
) -> fx.GraphModule:
    """Post-training quantization of a captured graph to 8 bits, in exactly the places that are named.

    activations: nodes whose results are quantized, one scale and zero point each; weighted: nodes whose weights are,
    symmetric per output channel without -128. Ranges are measured on the images, float32 (1, 3, S, S), and biases
    corrected; weights stay float32 behind their quantize nodes. The quantizer that NNCF takes in public describes
    places by annotations of torchao alone.
    """
    samples = list(images)
    nncf, pt2e = open_nncf(), open_nncf("nncf.experimental.torch.fx")
    with quiet_nncf():
        return pt2e.quantize_pt2e(
            model, _Placed(activations, weighted), nncf.Dataset(samples), subset_size=len(samples), fold_quantize=False
        )


class _Placed:
    """What NNCF asks of a quantizer: its own part of the graph untouched, and the setup of all places."""

    def __init__(self, activations: Sequence[str], weighted: Sequence[str]) -> None:
        self._activations, self._weighted = activations, weighted

    def transform_for_annotation(self, model: fx.GraphModule) -> fx.GraphModule:
        """Nothing to prepare: the graph is deployed."""
        return model

    def get_nncf_quantization_setup(self, model: fx.GraphModule, nncf_graph: Any) -> Any:
        """One point per activation and per weight."""
        structs = open_nncf("nncf.common.quantization.structs")
        setups = open_nncf("nncf.common.quantization.quantizer_setup")
        activation = structs.QuantizerConfig(mode=structs.QuantizationScheme.ASYMMETRIC, per_channel=False)
        weight = structs.QuantizerConfig(
            mode=structs.QuantizationScheme.SYMMETRIC, signedness_to_force=True, per_channel=True, narrow_range=True
        )
        setup = setups.SingleConfigQuantizerSetup()

        def add(place: Any, config: Any, quantized: list[str]) -> None:
            setup.add_independent_quantization_point(setups.SingleConfigQuantizationPoint(place, config, quantized))

        for name in self._activations:
            add(setups.ActivationQuantizationInsertionPoint(name), activation, [])
        for name in self._weighted:
            add(setups.WeightQuantizationInsertionPoint(name), weight, [name])
        return setup


def pruning_masks(pruned: nn.Module) -> Mapping[str, Tensor]:
    """The boolean mask of each weight of what `nncf.prune` gave, by its name in the state dict; to be changed in place.

    In public NNCF multiplies them in and forgets them.
    """
    algorithm = open_nncf("nncf.torch.function_hook.pruning.magnitude.algo")
    return {name: mask.binary_mask for name, mask in algorithm.get_pruned_modules(pruned).items()}
