"""The cost tables: what they hold, how classes are looked up, and that every converter has one."""

from __future__ import annotations

import tomllib

import pytest

from edgevit.deploy.cost_model import FILE, Costs, read_costs
from edgevit.errors import UsageError
from edgevit.targets.registry import converter_names, get_converter

_COSTS = Costs(((4, 1.0), (9, 2.5)), 3.0, 1.0, 1.0, 1.0, layer_norm=False, softmax_any_axis=False)


@pytest.mark.parametrize("name", tomllib.loads(FILE.read_text()))
def test_every_table_is_whole(name):
    costs = read_costs(name)
    assert list(costs.depthwise) == sorted(costs.depthwise)  # larger classes cost more
    assert min(costs.grouped_tap, costs.mac, costs.elementwise, costs.strided_slice) > 0
    assert read_costs(name) is costs


@pytest.mark.parametrize("name", converter_names())
def test_every_converter_names_a_table(name):
    assert isinstance(read_costs(get_converter(name).kernels), Costs)


def test_unknown_library_comes_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown kernel library 'xnpack'.*did you mean xnnpack"):
        read_costs("xnpack")


@pytest.mark.parametrize(("taps", "cost"), [(1, 1.0), (4, 1.0), (5, 2.5), (9, 2.5), (10, 30.0), (49, 147.0)])
def test_depthwise_kernel_costs_as_its_class_and_by_the_tap_above_all(taps, cost):
    assert _COSTS.depthwise_element(taps) == cost


def test_group_costs_a_whole_tile_of_outputs():
    assert [_COSTS.grouped(9, outputs) for outputs in (1, 16, 17, 33)] == [27.0, 27.0, 54.0, 81.0]
