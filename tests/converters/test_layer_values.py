"""Recorded intermediate activations of every target's file: outputs do not change, each value is its own node's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgevit.data.layout import to_layout
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import ContractError, UsageError
from edgevit.export.export_program import export
from edgevit.graph.capture import example_input
from edgevit.spec import Layout, Precision
from edgevit.targets.registry import get_converter
from edgevit.verification.layer_values import ProgramTrace, layers_of
from tests.fakes import make_provenance
from tests.tiny import TinyClassifier, classifier_spec, int8_network, residual_spec, seeded

LIBRARIES = {"executorch": "executorch.exir", "tflite": "ai_edge_litert", "coreml": "coremltools", "onnx": "onnxscript"}
HALVES = {"int8_compute": "fp16"}
IMAGE = example_input((1, 3, 32, 32), seed=3).numpy()


def int8_program(target="tflite"):
    batches = get_converter(target).dynamic_batch
    return export(int8_network().module(), residual_spec(), precision=Precision.INT8, dynamic_batch=batches)


def float_program(precision=Precision.FP32, target="tflite"):
    module, _ = deploy(seeded(TinyClassifier), classifier_spec())
    batches = get_converter(target).dynamic_batch
    return export(module, classifier_spec(), precision=precision, dynamic_batch=batches)


def write(program, target, folder, **options):
    """Converter and manifest of a program in one target."""
    pytest.importorskip(LIBRARIES[target], reason=f"{target} is not installed")
    converter = get_converter(target)
    converted = converter.convert(program, converter.Options(**options), folder)
    manifest = SimpleNamespace(
        name="tiny",
        entry=converted.entry,
        inputs=converted.inputs,
        outputs=converted.outputs,
        precision=program.precision,
        dynamic_batch=program.dynamic_batch,
        provenance=make_provenance(options=options),
    )
    return converter, manifest


def run(session, manifest):
    given = manifest.inputs[0]
    try:
        return session.run({given.name: np.ascontiguousarray(to_layout(IMAGE, Layout.NCHW, given.layout))})
    finally:
        session.close()


@pytest.mark.parametrize(("target", "options"), [*((target, {}) for target in LIBRARIES), ("coreml", HALVES)])
def test_integers_of_every_layer_of_an_int8_network_are_recorded(target, options, tmp_path):
    program = int8_program(target)
    converter, manifest = write(program, target, tmp_path, **options)
    layers = layers_of(program)
    traced = run(converter.open_traced(tmp_path, manifest, program, [layer.node for layer in layers]), manifest)
    plain = run(converter.open(tmp_path, manifest), manifest)
    assert np.array_equal(traced["logits"], plain["logits"])
    recorded = {layer.node: traced[layer.node] for layer in layers if layer.node in traced}
    assert len(recorded) >= len(layers) - 1
    made = ProgramTrace(program).follow(IMAGE, recorded)
    for layer in layers:
        if layer.node not in recorded:
            continue
        value, wanted = recorded[layer.node], made[layer.node]
        assert value.shape == wanted.shape
        assert value.dtype == (np.int8 if layer.qparams else np.float32)
        if layer.qparams:
            assert np.abs(value.astype(int) - wanted).max() <= 1, layer
            assert len(np.unique(wanted)) > 1, "a constant would agree with anything"
        else:
            assert np.allclose(value, wanted, rtol=0, atol=4e-3 * np.abs(wanted).max()), layer


@pytest.mark.parametrize(
    ("target", "precision"), [("tflite", "fp16"), ("executorch", "fp32"), ("coreml", "fp16"), ("onnx", "fp16")]
)
def test_values_of_float_layers_are_recorded(target, precision, tmp_path):
    program = float_program(Precision(precision), target)
    converter, manifest = write(program, target, tmp_path)
    layers = layers_of(program)
    recorded = run(converter.open_traced(tmp_path, manifest, program, [layer.node for layer in layers]), manifest)
    wanted = ProgramTrace(program).run(IMAGE)
    assert {layer.node for layer in layers} <= recorded.keys()
    for layer in layers:
        assert np.allclose(
            recorded[layer.node], wanted[layer.node], rtol=0, atol=5e-3 * np.abs(wanted[layer.node]).max()
        ), layer


def test_file_of_another_program_is_refused(tmp_path):
    converter, manifest = write(float_program(), "tflite", tmp_path)
    with pytest.raises(ContractError, match="not what this version of edgevit makes"):
        converter.open_traced(tmp_path, manifest, int8_program(), [])


def test_package_that_takes_images_is_refused(tmp_path):
    program = float_program()
    converter, manifest = write(program, "coreml", tmp_path, image_input=True)
    with pytest.raises(UsageError, match="normalises images itself"):
        converter.open_traced(tmp_path, manifest, program, [])
