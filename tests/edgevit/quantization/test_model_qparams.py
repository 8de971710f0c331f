"""Grids of a file against the promised ones: every way to differ is named, and nothing else is."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgevit.conversion.worker import _check_grids
from edgevit.errors import ContractError, ParityError
from edgevit.export.export_program import export
from edgevit.quantization.expected_qparams import network_grids, program_grids
from edgevit.quantization.model_qparams import (
    StoredGrid,
    StoredGrids,
    StoredLayer,
    canonical_weight,
    compare_grids,
    is_average,
)
from edgevit.spec import Precision
from tests.tiny import int8_network, residual_spec


@pytest.fixture(scope="module")
def promised() -> StoredGrids:
    return network_grids(int8_network())


def _changed(grids: StoredGrids, index: int, **changes) -> StoredGrids:
    layers = list(grids.layers)
    layers[index] = dataclasses.replace(layers[index], **changes)
    return dataclasses.replace(grids, layers=tuple(layers))


def _only_difference(stored: StoredGrids, promised: StoredGrids) -> str:
    comparison = compare_grids(stored, promised)
    assert not comparison.equal
    (difference,) = comparison.differences
    assert difference in comparison.summary()
    return difference


def test_program_says_what_its_table_says(promised):
    exported = export(int8_network().module(), residual_spec()).exported
    comparison = compare_grids(program_grids(exported), promised)
    assert comparison.equal, comparison.summary()
    assert comparison.weights == (5, 5)
    assert comparison.activations[0] == comparison.activations[1] == len(promised.activations)
    assert program_grids(exported).averages == promised.averages == 2


def test_result_of_rectified_layer_is_behind_the_rectifier(promised):
    network = int8_network()
    grid = network.table.activations["relu"]
    assert promised.layers[0].result == StoredGrid(grid.scale, grid.zero_point) == (grid.scale, -128)


def test_names_of_a_file_do_not_matter(promised):
    renamed = tuple(dataclasses.replace(layer, name=f"op {i}") for i, layer in enumerate(promised.layers[::-1]))
    comparison = compare_grids(dataclasses.replace(promised, layers=renamed), promised)
    assert comparison.equal
    assert comparison.names["op 0"] == promised.layers[-1].name
    assert comparison.summary().startswith(f"5 of 5 weights and {len(promised.activations)} of")


def test_linear_layer_may_be_stored_as_pointwise_convolution(promised):
    stored = _changed(promised, -1, values=promised.layers[-1].values[:, :, None, None])
    assert compare_grids(stored, promised).equal


def test_one_changed_weight_is_named(promised):
    values = promised.layers[1].values.copy()
    values.flat[5] += 1
    comparison = compare_grids(_changed(promised, 1, values=values), promised)
    assert comparison.weights == (4, 5)
    assert [promised.layers[1].name in line for line in comparison.differences] == [True, True]


def test_weight_scale_off_by_one_bit_is_named(promised):
    scales = np.nextafter(promised.layers[2].scales, np.float32(1))
    comparison = compare_grids(_changed(promised, 2, scales=scales), promised)
    assert comparison.weights == (4, 5)
    assert promised.layers[2].name in comparison.differences[0]


def test_layer_on_the_grid_of_another_is_named(promised):
    wrong = promised.layers[0].input
    difference = _only_difference(_changed(promised, 3, input=wrong), promised)
    assert difference == f"{promised.layers[3].name} reads {wrong}, not {promised.layers[3].input}"


def test_layer_with_float_result_is_named(promised):
    stored = _changed(promised, 3, result=None)
    assert _only_difference(stored, promised).startswith(f"{promised.layers[3].name} writes float, not ")
    assert stored.summary().startswith("4 of 5 convolutions and linear layers in int8, 2 averages and ")


def test_equal_weights_are_matched_by_the_grids_around_them(promised):
    grids = [StoredGrid(0.5, 0), StoredGrid(0.25, 0), StoredGrid(0.125, 0)]
    one, values = np.ones(2, np.float32), np.ones((2, 3), np.int8)
    twins = [StoredLayer(f"twin{i}", values, one, grids[i], grids[i + 1]) for i in range(2)]
    both = StoredGrids(tuple(twins), dict(enumerate(grids)), (), 0, {})
    comparison = compare_grids(dataclasses.replace(both, layers=tuple(twins[::-1])), both)
    assert comparison.equal
    assert comparison.names == {"twin0": "twin0", "twin1": "twin1"}


def test_lost_and_foreign_activation_grids_are_named(promised):
    name, *others = promised.activations
    kept = {other: promised.activations[other] for other in others}
    lost = _only_difference(dataclasses.replace(promised, activations=kept), promised)
    assert lost == f"no tensor lies on {promised.activations[name]}, the grid of {name}"
    more = {**promised.activations, "extra": StoredGrid(1.0, 0)}
    assert _only_difference(dataclasses.replace(promised, activations=more), promised).startswith("extra lies on 1 @ 0")


def test_float_layers_beyond_the_promised_are_named(promised):
    stored = dataclasses.replace(promised, float_layers=("conv2d_9",))
    assert _only_difference(stored, promised) == "1 layers compute with float weights: conv2d_9"


def test_what_no_int8_file_can_hold_is_refused(promised):
    promised.require_scheme("model")
    values = promised.layers[0].values.copy()
    values.flat[0] = -128
    with pytest.raises(ContractError, match=f"model: the weight of {promised.layers[0].name} "):
        _changed(promised, 0, values=values).require_scheme("model")
    with pytest.raises(ContractError, match=r"t lies on 0\.1 @ 0"):
        dataclasses.replace(promised, activations={"t": StoredGrid(0.1, 0)}).require_scheme("model")


def test_conversion_stops_where_the_file_holds_other_scales(promised, tmp_path):
    program = export(int8_network().module(), residual_spec(), precision=Precision.INT8)
    other = _changed(promised, 0, scales=promised.layers[0].scales * 2)
    careless, manifest = SimpleNamespace(read_grids=lambda *_: other), SimpleNamespace(name="tiny")
    with pytest.raises(ParityError, match="tiny does not hold the scales of its checkpoint: 4 of 5 weights"):
        _check_grids(program, careless, manifest, tmp_path)


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
