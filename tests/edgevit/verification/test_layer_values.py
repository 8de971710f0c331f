"""Layers of a program, and the output of each on given values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgevit.export.export_program import export
from edgevit.graph.capture import example_input
from edgevit.spec import Precision
from edgevit.verification.layer_values import ProgramTrace, layers_of
from tests.tiny import int8_network, residual_spec

IMAGE = example_input((1, 3, 32, 32), seed=3).numpy()


@pytest.fixture(scope="module")
def network():
    return int8_network()


@pytest.fixture(scope="module")
def program(network):
    return export(network.module(), residual_spec(), precision=Precision.INT8)


def test_layers_are_what_kernels_write(program, network):
    layers = layers_of(program)
    operations = [layer.operation for layer in layers if layer.qparams]
    assert operations[:3] == ["input", "conv2d relu", "conv2d"]
    qparams = network.table.activations.values()
    assert [(layer.qparams.scale, layer.qparams.zero_point) for layer in layers if layer.qparams] == [
        (qparams.scale, qparams.zero_point) for qparams in qparams
    ]
    assert {layer.place for layer in layers} >= {"stem.1", "mix.0", "norm", "last", "head"}
    assert [layer.place for layer in layers if layer.operation == "rsqrt"] == ["norm"]


def test_a_run_ends_with_the_output_of_the_network(program, network):
    last = layers_of(program)[-1]
    values = ProgramTrace(program).run(IMAGE)
    with torch.no_grad():
        output = network.reference()(torch.from_numpy(IMAGE)).numpy()
    assert np.array_equal((values[last.node].astype(np.float32) - last.qparams.zero_point) * last.qparams.scale, output)


def test_own_values_lead_to_own_values(program):
    trace = ProgramTrace(program)
    values = trace.run(IMAGE)
    made = trace.follow(IMAGE, values)
    assert all(np.array_equal(made[node], value) for node, value in values.items())


def test_a_given_value_moves_the_layers_behind_it_alone(program):
    trace, layers = ProgramTrace(program), [layer.node for layer in layers_of(program)]
    values = trace.run(IMAGE)
    changed = values | {layers[2]: values[layers[2]] // 2}
    made = trace.follow(IMAGE, changed)
    differing = {node for node in layers if not np.array_equal(made[node], values[node])}
    assert layers[2] not in differing
    assert layers[3] in differing
    assert not differing & set(layers[:2])


def test_the_float_network_is_followed_by_the_layers_of_the_int8_one(program, network):
    layers = layers_of(program)
    trace = ProgramTrace(export(network.deployed, residual_spec()), layers)
    values = trace.run(IMAGE)
    assert list(values) == [layer.node for layer in layers]
    with torch.no_grad():
        output = network.deployed(torch.from_numpy(IMAGE)).numpy()
    assert np.array_equal(values[layers[-1].node], output)
    recorded = ProgramTrace(program).run(IMAGE)
    made = trace.follow(IMAGE, recorded)
    gelu = next(layer for layer in layers if layer.operation == "gelu")
    inside = (recorded[gelu.node] > -128) & (recorded[gelu.node] < 127)  # not clamped: the nearest step exists
    rounded = (gelu.qparams.dequantize(recorded[gelu.node]) - made[gelu.node])[inside]
    assert 0 < np.abs(rounded).max() <= gelu.qparams.scale / 2 * 1.01
