"""Quantization parameters of a file against the expected ones: every difference is named, and nothing else."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgevit.conversion.artifact_checks import check_qparams
from edgevit.errors import ContractError, ParityError
from edgevit.export.export_program import export
from edgevit.quantization.expected_qparams import network_qparams, program_qparams
from edgevit.quantization.model_qparams import (
    LayerQParams,
    ModelQParams,
    canonical_weight,
    compare_qparams,
    is_average,
)
from edgevit.quantization.qparams import QParams, QuantizedWeight
from edgevit.spec import Precision
from tests.tiny import int8_network, residual_spec


@pytest.fixture(scope="module")
def expected() -> ModelQParams:
    return network_qparams(int8_network())


def _changed(qparams: ModelQParams, index: int, **changes) -> ModelQParams:
    layers = list(qparams.layers)
    layers[index] = dataclasses.replace(layers[index], **changes)
    return dataclasses.replace(qparams, layers=tuple(layers))


def _with_weight(qparams: ModelQParams, index: int, **changes) -> ModelQParams:
    return _changed(qparams, index, weight=dataclasses.replace(qparams.layers[index].weight, **changes))


def _only_difference(stored: ModelQParams, expected: ModelQParams) -> str:
    comparison = compare_qparams(stored, expected)
    assert not comparison.equal
    (difference,) = comparison.differences
    assert difference in comparison.summary()
    return difference


def test_program_says_what_its_table_says(expected):
    exported = export(int8_network().module(), residual_spec()).exported
    comparison = compare_qparams(program_qparams(exported), expected)
    assert comparison.equal, comparison.summary()
    assert comparison.weights == (5, 5)
    assert comparison.activations[0] == comparison.activations[1] == len(expected.activations)
    assert program_qparams(exported).averages == expected.averages == 2


def test_result_of_a_layer_is_behind_its_fused_activation(expected):
    network = int8_network()
    qparams = network.table.activations["relu"]
    assert expected.layers[0].result == qparams == QParams(qparams.scale, -128)


def test_names_of_a_file_do_not_matter(expected):
    renamed = tuple(dataclasses.replace(layer, name=f"op {i}") for i, layer in enumerate(expected.layers[::-1]))
    comparison = compare_qparams(dataclasses.replace(expected, layers=renamed), expected)
    assert comparison.equal
    assert comparison.names["op 0"] == expected.layers[-1].name
    assert comparison.summary().startswith(f"5 of 5 weights and {len(expected.activations)} of")


def test_linear_layer_may_be_stored_as_pointwise_convolution(expected):
    stored = _with_weight(expected, -1, int_repr=expected.layers[-1].weight.int_repr[:, :, None, None])
    assert compare_qparams(stored, expected).equal


def test_one_changed_weight_is_named(expected):
    values = expected.layers[1].weight.int_repr.copy()
    values.flat[5] += 1
    comparison = compare_qparams(_with_weight(expected, 1, int_repr=values), expected)
    assert comparison.weights == (4, 5)
    assert [expected.layers[1].name in line for line in comparison.differences] == [True, True]


def test_weight_scale_off_by_one_bit_is_named(expected):
    scales = np.nextafter(expected.layers[2].weight.scales, np.float32(1))
    comparison = compare_qparams(_with_weight(expected, 2, scales=scales), expected)
    assert comparison.weights == (4, 5)
    assert expected.layers[2].name in comparison.differences[0]


def test_layer_on_the_qparams_of_another_is_named(expected):
    wrong = expected.layers[0].input
    difference = _only_difference(_changed(expected, 3, input=wrong), expected)
    assert difference == f"{expected.layers[3].name} reads {wrong}, not {expected.layers[3].input}"


def test_layer_with_float_result_is_named(expected):
    stored = _changed(expected, 3, result=None)
    assert _only_difference(stored, expected).startswith(f"{expected.layers[3].name} writes float, not ")
    assert stored.summary().startswith("4 of 5 convolutions and linear layers in int8, 2 averages and ")


def test_equal_weights_are_matched_by_the_qparams_around_them(expected):
    qparams = [QParams(0.5, 0), QParams(0.25, 0), QParams(0.125, 0)]
    one, values = np.ones(2, np.float32), np.ones((2, 3), np.int8)
    equal = [LayerQParams(f"layer{i}", QuantizedWeight(values, one), *qparams[i : i + 2]) for i in range(2)]
    both = ModelQParams(tuple(equal), dict(enumerate(qparams)), (), 0, {})
    comparison = compare_qparams(dataclasses.replace(both, layers=tuple(equal[::-1])), both)
    assert comparison.equal
    assert comparison.names == {"layer0": "layer0", "layer1": "layer1"}


def test_lost_and_foreign_activation_qparams_are_named(expected):
    name, *others = expected.activations
    kept = {other: expected.activations[other] for other in others}
    lost = _only_difference(dataclasses.replace(expected, activations=kept), expected)
    assert lost == f"no tensor has {expected.activations[name]}, the qparams of {name}"
    more = {**expected.activations, "extra": QParams(1.0, 0)}
    assert _only_difference(dataclasses.replace(expected, activations=more), expected).startswith("extra has 1 @ 0")


def test_float_layers_beyond_the_expected_are_named(expected):
    stored = dataclasses.replace(expected, float_layers=("conv2d_9",))
    assert _only_difference(stored, expected) == "1 layers compute with float weights: conv2d_9"


def test_what_no_int8_file_can_hold_is_refused(expected):
    expected.require_scheme("model")
    values = expected.layers[0].weight.int_repr.copy()
    values.flat[0] = -128
    with pytest.raises(ContractError, match=f"model: the weight of {expected.layers[0].name} "):
        _with_weight(expected, 0, int_repr=values).require_scheme("model")
    with pytest.raises(ContractError, match=r"t has 0\.1 @ 0"):
        dataclasses.replace(expected, activations={"t": QParams(0.1, 0)}).require_scheme("model")


def test_conversion_stops_where_the_file_holds_other_scales(expected, tmp_path):
    program = export(int8_network().module(), residual_spec(), precision=Precision.INT8)
    other = _with_weight(expected, 0, scales=expected.layers[0].weight.scales * 2)
    careless, manifest = SimpleNamespace(read_qparams=lambda *_: other), SimpleNamespace(name="tiny")
    with pytest.raises(ParityError, match="tiny does not hold the scales of its checkpoint: 4 of 5 weights"):
        check_qparams(program, careless, manifest, tmp_path)


def test_canonical_weight_puts_channels_first():
    weight = torch.randn(6, 3, 2, 5).numpy()
    assert np.array_equal(canonical_weight(weight.transpose(0, 2, 3, 1), 0), weight)
    depthwise = weight[:, :1]  # (6, 1, 2, 5)
    assert np.array_equal(canonical_weight(depthwise.transpose(1, 2, 3, 0), 3), depthwise)
    assert np.array_equal(canonical_weight(weight[:, :, 0, 0].T, 1), weight[:, :, 0, 0])


@pytest.mark.parametrize(
    ("weight", "averages"),
    [
        (np.full((1, 160, 1, 1), 1 / 160, np.float16), True),
        (np.full((1, 8), 1 / 8, np.float32), True),
        (np.full((1, 8), 1 / 4, np.float32), False),
        (np.full((2, 4), 1 / 8, np.float32), False),
        (np.eye(1, 8, dtype=np.float32), False),
    ],
)
def test_average_has_one_channel_of_equal_weights_that_sum_to_one(weight, averages):
    assert is_average(weight) is averages
