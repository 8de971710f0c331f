"""Values are held to their declared shapes while a program runs."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.errors import ContractError
from edgevit.mil import Interpreter
from edgevit.mil.shapes import shape_check
from tests.edgevit.mil.packages import small


def _predict(build, folder):
    interpreter = Interpreter(build.write(folder))
    image = np.ones((1, 3, 8, 8), np.float32)
    return interpreter.predict({"image": image}, observe=shape_check(interpreter.package))


def _result(build, name):
    return next(operation for operation in build.block.operations if operation.outputs[0].name == name).outputs[0]


def test_declared_shapes_pass(tmp_path):
    assert _predict(small(), tmp_path / "m.mlpackage")["logits"].shape == (1, 4)


@pytest.mark.parametrize("change", ["size", "rank"])
def test_another_shape_is_named_with_its_op(tmp_path, change):
    build = small()
    dimensions = _result(build, "features").type.tensorType.dimensions
    if change == "size":
        dimensions[1].constant.size = 7
    else:
        del dimensions[0]
    with pytest.raises(ContractError, match=r"conv 'features' gives shape \(1, 6, 6, 6\), declared is"):
        _predict(build, tmp_path / "m.mlpackage")


def test_dimensions_known_at_run_time_match_anything(tmp_path):
    build = small()
    _result(build, "features").type.tensorType.dimensions[1].unknown.variadic = False
    _predict(build, tmp_path / "m.mlpackage")
