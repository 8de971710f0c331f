"""A shrunken network of each family with operations of its own, through the deploy stage, in every runtime."""

from __future__ import annotations

import pytest

from edgevit.contract.manifest import Tolerance
from edgevit.deploy.pass_manager import deploy
from edgevit.export.export_program import export
from edgevit.graph.capture import example_input
from edgevit.mil import Interpreter
from edgevit.targets.registry import get_converter
from edgevit.verification.checks import check_parity, measure
from tests.converters.running import run_once
from tests.edgevit.deploy.rewriting import settled
from tests.families import build, spec_of

FAMILIES = ("cvt", "pervit", "dwnet", "dynamic_dwnet", "i_dynamic_dwnet", "local_vit", "vt_fpn")


@pytest.mark.parametrize("target", ["tflite", "executorch", "coreml"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shrunken_network_keeps_its_outputs_and_one_region(family, target, tmp_path):
    import torch

    torch.manual_seed(0)
    model, spec, converter = settled(build(family)), spec_of(family), get_converter(target)
    image = example_input((1, 3, 32, 32), seed=3)
    with torch.no_grad():
        expected = model(image).numpy()
    module, _ = deploy(model, spec, kernels=converter.kernels)
    converted = converter.convert(export(module, spec), converter.Options(), tmp_path)
    if target == "coreml":
        (source,), (result,) = converted.inputs, converted.outputs
        output = Interpreter(tmp_path / converted.entry).predict({source.name: image.numpy()})[result.name]
    else:
        output = run_once(converter, converted, tmp_path, image.numpy())
        assert (converted.lowering.regions, converted.lowering.outside) == (1, {})
        assert converted.lowering.delegated == converted.lowering.nodes
    parity = measure(output, expected, task=spec.task, runtime=target)
    check_parity(parity, Tolerance(max_relative_error=1e-5), f"{family} {target}")
