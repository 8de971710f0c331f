"""Hostile parameters: refused with a clear error before memory is taken for what they ask."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from edgevit.errors import ContractError, UsageError
from edgevit.mil import Interpreter, limits
from edgevit.mil.ops import OPS
from tests.edgevit.mil.packages import Builder

HUGE = 1 << 30
# Operation -> its parameters; x is (1, 2, 4, 4). Each asks for a result of more than limits.MAX_ELEMENTS.
GREEDY = {
    "fill": {"shape": np.array([HUGE, HUGE], np.int32), "value": np.float32(1)},
    "tile": {"x": None, "reps": np.array([HUGE, 1, 1, 1], np.int32)},
    "pad": {"x": None, "pad": np.array([0, HUGE], np.int32), "mode": "constant", "constant_val": np.float32(0)},
    "range_1d": {"start": np.float32(0), "end": np.float32(1e30), "step": np.float32(1)},
    "one_hot": {"indices": np.array([1, 2], np.int32), "one_hot_vector_size": np.int32(HUGE)},
    "upsample_nearest_neighbor": {
        "x": None,
        "scale_factor_height": np.float32(1e9),
        "scale_factor_width": np.float32(1e9),
    },
    "upsample_bilinear": {"x": None, "scale_factor_height": np.float32(math.inf), "align_corners": np.bool_(False)},
    "resize_nearest_neighbor": {"x": None, "target_size_height": np.int32(HUGE), "target_size_width": np.int32(1)},
    "resize_bilinear": {"x": None, "target_size_height": np.int32(1), "target_size_width": np.int32(HUGE)},
    "resize": {"x": None, "shape": np.array([HUGE, 2], np.int32), "resized_dims": np.uint8(2)},
    "sliding_windows": {"x": None, "axis": np.int32(1), "size": np.int32(HUGE)},
    "space_to_batch": {
        "x": None,
        "block_shape": np.array([2, 2], np.int32),
        "paddings": np.array([[0, HUGE], [0, 0]], np.int32),
    },
    "max_pool": {
        "x": None,
        "kernel_sizes": np.array([1, 1], np.int32),
        "pad_type": "custom",
        "pad": np.array([HUGE, 0, 0, 0], np.int32),
    },
    "conv_transpose": {
        "x": None,
        "weight": np.ones((2, 1, 2, 2), np.float32),
        "strides": np.array([1 << 20, 1 << 20], np.int32),
    },
    "gather": {"x": np.ones((2, 1 << 15), np.float32), "indices": np.zeros(1 << 15, np.int32), "axis": np.int32(0)},
    "add": {"x": np.ones((1 << 15, 1), np.float32), "y": np.ones((1, 1 << 15), np.float32)},
    "select": {
        "cond": np.ones((1 << 15, 1), bool),
        "a": np.ones((1, 1 << 15), np.float32),
        "b": np.zeros(1, np.float32),
    },
    "matmul": {"x": np.ones((1 << 15, 1), np.float32), "y": np.ones((1, 1 << 15), np.float32)},
    "linear": {"x": np.ones((1 << 15, 1), np.float32), "weight": np.ones((1 << 15, 1), np.float32)},
    "einsum": {"values": [np.ones(1 << 15, np.float32)] * 2, "equation": "a,b->ab"},
    "affine": {
        "x": None,
        "transform_matrix": np.ones((1, 6), np.float32),
        "output_height": np.int32(HUGE),
        "output_width": np.int32(1),
        "sampling_mode": "bilinear",
        "padding_mode": "constant",
        "padding_value": np.float32(0),
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": np.bool_(True),
    },
    "crop_resize": {
        "x": None,
        "boxes": np.zeros((1, 4), np.float32),
        "target_height": np.int32(HUGE),
        "target_width": np.int32(1),
    },
    "non_maximum_suppression": {
        "boxes": np.zeros((1, 2, 4), np.float32),
        "scores": np.zeros((1, 2, 3), np.float32),
        "iou_threshold": np.float32(0.5),
        "max_boxes": np.int32(HUGE),
    },
}


def _program(kind: str, parameters: dict) -> Builder:
    """x (1, 2, 4, 4) and constants into one operation whose declared result says nothing of its size."""
    build = Builder()
    build.input("x", (1, 2, 4, 4))
    names = {}
    for key, value in parameters.items():
        if isinstance(value, list):
            names[key] = [build.const(f"{key}{i}", item) for i, item in enumerate(value)]
        else:
            names[key] = "x" if value is None else build.const(f"{key}_", value)
    build.op(kind, "result", (1,), **names)
    build.output("result", (1,))
    return build


def _run(folder, build: Builder):
    return Interpreter(build.write(folder)).predict({"x": np.ones((1, 2, 4, 4), np.float32)})


@pytest.mark.parametrize("kind", GREEDY)
def test_greedy_parameters_are_refused_by_the_bound(tmp_path, kind, little_memory):
    with pytest.raises(ContractError, match=rf"^{kind}: a value of .* elements, at most {limits.MAX_ELEMENTS}"):
        _run(tmp_path / "m.mlpackage", _program(kind, GREEDY[kind]))


def test_declared_shapes_are_bounded_before_anything_runs(tmp_path, little_memory):
    build = Builder()
    build.input("x", (1, 2, 4, 4))
    build.op("relu", "y", (1 << 15, 1 << 15), x="x")
    build.output("y", (1 << 15, 1 << 15))
    with pytest.raises(ContractError, match=r"relu, 'y': a value of 1\.07e\+09 elements"):
        Interpreter(build.write(tmp_path / "m.mlpackage"))


def test_a_loop_without_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ITERATIONS", 50)
    build = Builder()
    build.input("x", (1,))
    loop = build.block.operations.add(type="while_loop")
    loop.inputs["loop_vars"].arguments.add(name="x")
    outer = build.block
    for result in ("go", "next"):
        build.block = loop.blocks.add()
        value = build.block.inputs.add(name=f"{result}_in")
        value.type.CopyFrom(build.function.inputs[0].type)
        if result == "go":
            build.op("equal", "go", (1,), "bool", x="go_in", y="go_in")
        else:
            build.op("relu", "next", (1,), x="next_in")
        build.block.outputs.append(result)
    build.block = outer
    loop.outputs.add(name="y").type.CopyFrom(build.function.inputs[0].type)
    build.output("y", (1,))
    interpreter = Interpreter(build.write(tmp_path / "m.mlpackage"))
    with pytest.raises(ContractError, match="more than 50 iterations"):
        interpreter.predict({"x": np.ones(1, np.float32)})


def _hostile(value, chance: random.Random):
    """Another value of the same kind: negative, zero, huge, not a number, of another shape."""
    if isinstance(value, str):
        return chance.choice(["", "same", "nearest", "x->"])
    array = np.array(value)
    new = chance.choice([math.nan, math.inf, -1e38, 0.0, 1e9] if array.dtype.kind == "f" else [-1, 0, 1, 7, HUGE])
    if array.dtype.kind in "bu":
        new = abs(new) % 2
    array.reshape(-1)[chance.randrange(array.size)] = new
    return array[..., :-1] if array.ndim and array.shape[-1] > 1 and chance.random() < 0.2 else array[()]


@pytest.mark.parametrize("kind", GREEDY)
def test_random_parameters_give_a_result_or_a_clear_error(tmp_path, kind, little_memory, monkeypatch):
    monkeypatch.setattr(limits, "MAX_ELEMENTS", 1 << 24)
    chance = random.Random(kind)
    for attempt in range(25):
        parameters = {
            key: value if value is None or isinstance(value, list) or chance.random() < 0.3 else _hostile(value, chance)
            for key, value in GREEDY[kind].items()
        }
        error = _refusal(tmp_path / f"{attempt}.mlpackage", _program(kind, parameters))
        assert "memory" not in error
        assert error.isprintable()


def _refusal(folder, build: Builder) -> str:
    """The message of a clear error, "" if there was a result."""
    try:
        _run(folder, build)
    except (ContractError, UsageError) as error:
        return error.message
    return ""


def test_bounds_are_for_operations_that_exist():
    assert set(GREEDY) <= set(limits._SIZES) <= set(OPS)


@pytest.mark.parametrize(
    "shapes", [((1,), (3, 1)), ((3, 1), (1, 4)), ((), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((5,), (5,)), ((), ())]
)
def test_broadcast_counts_what_numpy_makes(shapes):
    one, other = (torch.zeros(shape) for shape in shapes)
    assert limits._broadcast(one, other) == math.prod(np.broadcast_shapes(*shapes))
