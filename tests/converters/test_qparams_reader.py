"""Every target's file holds exactly the checkpoint's qparams, and a byte of it that changes is noticed."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgevit.errors import ContractError
from edgevit.export.export_program import export
from edgevit.quantization.expected_qparams import network_qparams
from edgevit.quantization.model_qparams import LayerQParams, compare_qparams
from edgevit.spec import Precision
from edgevit.targets.registry import get_converter
from tests.tiny import classifier_spec, int8_network, residual_spec

LIBRARIES = {"executorch": "executorch.exir", "tflite": "ai_edge_litert", "coreml": "coremltools", "onnx": "onnxscript"}
COREML_FORMS = (
    {"deployment_target": "iOS18"},  # stores int8 weights by another operation
    {"int8_compute": "fp16"},  # has scales where emulated integer arithmetic has factors
    {"deployment_target": "iOS18", "int8_compute": "fp16"},
)


@pytest.fixture(scope="module")
def network():
    return int8_network()


@pytest.fixture(scope="module", params=[*((n, {}) for n in LIBRARIES), *(("coreml", o) for o in COREML_FORMS)], ids=str)
def written(request, network, tmp_path_factory):
    """Converter, folder and manifest of the int8 network in one target."""
    target, options = request.param
    pytest.importorskip(LIBRARIES[target], reason=f"{target} is not installed")
    converter, folder = get_converter(target), tmp_path_factory.mktemp(target)
    program = export(network.module(), residual_spec(), precision=Precision.INT8, dynamic_batch=converter.dynamic_batch)
    converted = converter.convert(program, converter.Options(**options), folder)
    return converter, folder, SimpleNamespace(entry=converted.entry)


def test_file_holds_exactly_the_qparams_of_the_table(written, network):
    converter, folder, manifest = written
    stored = converter.read_qparams(folder, manifest)
    comparison = compare_qparams(stored, network_qparams(network))
    assert comparison.equal, comparison.summary()
    assert comparison.weights == (5, 5)
    assert set(comparison.names.values()) == set(network.table.weights)
    assert comparison.activations == (len(network.table.activations),) * 2
    assert all(layer.in_int8 for layer in stored.layers)
    assert (stored.float_layers, stored.averages) == ((), 2)
    stored.require_scheme("file")


@pytest.mark.parametrize("part", ["values", "scales"])
def test_changed_byte_of_a_file_is_noticed(written, network, part, tmp_path):
    converter, folder, manifest = written
    layer = converter.read_qparams(folder, manifest).layers[0]  # (8, 3, 3, 3)
    forms = {
        "values": [layer.weight.int_repr, layer.weight.int_repr.transpose(0, 2, 3, 1)],
        "scales": [layer.weight.scales, layer.weight.scales.astype(np.float16), _factors(layer)],
    }
    copy = _copy_with_change(folder, tmp_path, [np.ascontiguousarray(form).tobytes() for form in forms[part]])
    comparison = compare_qparams(converter.read_qparams(copy, manifest), network_qparams(network))
    assert comparison.weights == (4, 5)
    assert "no weight is that of conv2d (8, 3, 3, 3)" in comparison.differences


def _factors(layer: LayerQParams) -> np.ndarray:
    """What rescales the sums of a layer in emulated integers, float32 (O,)."""
    return layer.weight.scales * np.float32(layer.input.scale) / np.float32(layer.result.scale)


def _copy_with_change(folder: Path, copy: Path, forms: list[bytes]) -> Path:
    """A copy of the folder in which the first of these byte strings that occurs has another last byte."""
    changed = 0
    for path in (path for path in folder.rglob("*") if path.is_file()):
        data = bytearray(path.read_bytes())
        for form in forms:
            at = data.find(form)
            if at >= 0 and not changed:
                data[at + len(form) - 1] ^= 1
                changed += 1
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    assert changed == 1
    return copy


def test_changed_scale_of_the_table_is_noticed(written, network):
    converter, folder, manifest = written
    stored, expected = converter.read_qparams(folder, manifest), network_qparams(network)
    name, qparams = next(iter(expected.activations.items()))
    expected.activations[name] = dataclasses.replace(
        qparams, scale=float(np.nextafter(np.float16(qparams.scale), np.float16(1)))
    )
    lines = compare_qparams(stored, expected).differences
    assert f"no tensor has {expected.activations[name]}, the qparams of {name}" in lines


def test_float_file_holds_no_qparams(written, network, tmp_path):
    converter, _, _ = written
    converted = converter.convert(export(network.deployed, residual_spec()), converter.Options(), tmp_path)
    stored = converter.read_qparams(tmp_path, SimpleNamespace(entry=converted.entry))
    assert not stored
    assert len(stored.float_layers) == 5
    assert stored.averages == 2


def test_damaged_file_is_refused(written, tmp_path):
    converter, folder, manifest = written
    for path in (path for path in folder.rglob("*") if path.is_file()):
        target = tmp_path / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ContractError):
        converter.read_qparams(tmp_path, manifest)


class LoneNorm(nn.Module):
    """A BatchNorm that nothing around it can take in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)
        nn.init.uniform_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.sigmoid(self.stem(x)).exp())).mean((2, 3))


@pytest.mark.parametrize("target", LIBRARIES)
def test_norm_alone_is_arithmetic_whatever_a_target_writes_it_as(target, tmp_path):
    pytest.importorskip(LIBRARIES[target], reason=f"{target} is not installed")
    converter = get_converter(target)
    converted = converter.convert(export(LoneNorm().eval(), classifier_spec()), converter.Options(), tmp_path)
    stored = converter.read_qparams(tmp_path, SimpleNamespace(entry=converted.entry))
    assert len(stored.float_layers) == 2
    assert stored.averages == 0


def test_small_scales_of_a_pte_keep_all_their_bits():
    """The tool that prints a delegate's graph would write six decimals."""
    pytest.importorskip(LIBRARIES["executorch"], reason="executorch is not installed")
    schema = importlib.import_module("converters.executorch.pte_reader").graph_schema().decode()
    assert "scale:uint" in schema
    assert "float;" not in schema
