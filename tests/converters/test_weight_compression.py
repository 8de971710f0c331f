"""Weights in other forms than the arithmetic: the files hold them, and compute what the network with them computes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from converters.coreml import converter as coreml
from converters.executorch import converter as executorch
from converters.tflite import converter as tflite
from edgevit.data.layout import to_layout
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ConversionError
from edgevit.export.export_program import export
from edgevit.export.program import runner
from edgevit.quantization.weight_only import rounded_program
from edgevit.spec import Layout, Precision
from tests.edgevit.contract.test_manifest import make_manifest
from tests.tiny import TinyWide, classifier_spec, seeded

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(5)).numpy()


def _program(precision=Precision.FP32, network=None):
    deployed, _ = deploy(network or seeded(TinyWide), classifier_spec())
    return export(deployed, classifier_spec(), precision=precision)


def _output(converter, program, folder, **options):
    """Logits of the file for IMAGE, and what the converter returned for it."""
    folder.mkdir(exist_ok=True)
    converted = converter.convert(program, converter.Options(**options), folder)
    manifest = dataclasses.replace(
        make_manifest(),
        target=converter.name,
        precision=program.precision,
        entry=converted.entry,
        inputs=converted.inputs,
        outputs=converted.outputs,
    )
    session = converter.open(folder, manifest)
    image = to_layout(IMAGE, Layout.NCHW, converted.inputs[0].layout)
    return session.run({"image": np.ascontiguousarray(image)})["logits"], converted


def _error(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("converter", [executorch.CONVERTER, tflite.CONVERTER], ids=lambda one: one.name)
def test_int8_weights_compute_in_float_inside_one_delegate(converter, tmp_path):
    program = rounded_program(_program())
    found, converted = _output(converter, program, tmp_path, weight_compression="int8")
    assert converted.compression == "int8"
    assert _error(found, runner(program)(IMAGE)) < 1e-6
    assert 1e-4 < _error(found, runner(_program())(IMAGE)) < 0.1  # rounding is no small thing
    assert (converted.lowering.regions, converted.lowering.outside) == (1, {})


def test_executorch_halves_its_weights_in_fp16_and_computes_in_float32(tmp_path):
    files = {}
    for precision in (Precision.FP32, Precision.FP16):
        found, converted = _output(executorch.CONVERTER, _program(precision), tmp_path / precision)
        files[precision] = (tmp_path / precision / converted.entry).stat().st_size
        assert converted.lowering.regions == 1
    large = sum(weight.numel() for weight in seeded(TinyWide).parameters() if weight.numel() >= 256)
    assert files[Precision.FP32] - files[Precision.FP16] == pytest.approx(2 * large, rel=0.1)
    assert 1e-6 < _error(found, runner(_program())(IMAGE)) < 3e-3


def test_weight_beyond_float16_is_refused(tmp_path):
    network = seeded(TinyWide)
    network.head[0].weight.data[0, 0] = 1e5
    with pytest.raises(ConversionError, match="1e\\+05 does not fit float16"):
        executorch.CONVERTER.convert(_program(Precision.FP16, network), executorch.CONVERTER.Options(), tmp_path)


def test_core_ml_stores_no_zeros_and_loses_nothing_by_it(tmp_path):
    network = seeded(TinyWide)
    for weight in (weight for weight in network.parameters() if weight.dim() > 1):
        weight.data[weight.abs() < weight.abs().median()] = 0
    program = _program(Precision.FP16, network)
    full, _ = _output(coreml.CONVERTER, program, tmp_path / "full")
    sparse, converted = _output(coreml.CONVERTER, program, tmp_path / "sparse", weight_compression="sparse")
    assert np.array_equal(full, sparse)
    assert (converted.compression, converted.tolerance) == ("sparse", None)
    sizes = [sum(f.stat().st_size for f in (tmp_path / name).rglob("weight.bin")) for name in ("full", "sparse")]
    assert sizes[1] < 0.75 * sizes[0]
    with pytest.raises(ConversionError, match=r"12\.5 % of them zero"):
        _output(coreml.CONVERTER, _program(Precision.FP16), tmp_path / "dense", weight_compression="sparse")
