"""The four mobile families at 224x224, in the runtimes that this machine has. The matrix has every other model."""

from __future__ import annotations

import dataclasses
import math

import pytest

from benchmarks.conversion_matrix import seeded_model
from edgevit.checkpoints.model_source import load_model
from edgevit.contract.manifest import Tolerance
from edgevit.contract.tolerances import TOLERANCES
from edgevit.deploy.pass_manager import deploy
from edgevit.export.export_program import export
from edgevit.graph.capture import example_input
from edgevit.spec import Precision
from edgevit.targets.registry import get_converter
from edgevit.verification.checks import check_parity, measure
from tests.converters.running import run_once

MODELS = ("van_b0", "mobile_former_26m", "mobile_former_294m", "vt_resnet18", "segnetr_64", "segnetr_32")

# Transposes at most. ExecuTorch has one for its input in NCHW, and some around feature maps as small as tokens.
MOST_TRANSPOSES = {
    ("van_b0", "tflite"): 0,
    ("van_b0", "executorch"): 1,
    ("mobile_former_26m", "tflite"): 3,
    ("mobile_former_26m", "executorch"): 35,
    ("mobile_former_294m", "tflite"): 1,
    ("mobile_former_294m", "executorch"): 35,
    ("vt_resnet18", "tflite"): 9,
    ("vt_resnet18", "executorch"): 13,
    ("segnetr_32", "tflite"): 34,
    ("segnetr_32", "executorch"): 35,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_full_size_model_keeps_its_outputs(name, tmp_path):
    source = load_model(seeded_model(name, 0))
    module, _ = deploy(source.module, source.spec)
    program = export(module, source.spec)
    tensor = example_input(source.spec.inputs[0].shape, seed=3).numpy()
    expected = source.run(tensor)
    for target, precision in (("tflite", Precision.FP32), ("tflite", Precision.FP16), ("executorch", Precision.FP32)):
        folder = tmp_path / f"{target}-{precision}"
        folder.mkdir()
        converter = get_converter(target)
        converted = converter.convert(dataclasses.replace(program, precision=precision), converter.Options(), folder)
        if precision is Precision.FP32:
            assert (converted.lowering.regions, converted.lowering.outside) == (1, {})
        assert converted.lowering.transposes <= MOST_TRANSPOSES.get((name, target), math.inf)
        output = run_once(converter, converted, folder, tensor)
        parity = measure(output, expected, task=source.spec.task, runtime=target)
        check_parity(parity, TOLERANCES[precision], f"{name} {target} {precision}")
        check_parity(parity, Tolerance(min_snr_db=50), name)
