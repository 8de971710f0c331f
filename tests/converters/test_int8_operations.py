"""Operations between two int8 convolutions: each runtime's kernels against the int8 network, bit-exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from converters.coreml import converter as coreml
from converters.executorch import converter as executorch
from converters.tflite import converter as tflite
from edgevit.export.export_program import export
from edgevit.mil import Interpreter
from edgevit.quantization.calibration import calibrate
from edgevit.quantization.quantized_model import Int8Network, prepare
from edgevit.spec import Precision
from tests.edgevit.deploy.rewriting import Function
from tests.tiny import classifier_spec

OPERATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
    "difference": lambda x: x - F.relu(x),
    "silu": F.silu,
    "product": lambda x: x * torch.sigmoid(x),
    "concatenation": lambda x: torch.cat([F.relu(x[:, :4]), x[:, 4:] * x[:, :4]], 1),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "largest": lambda x: F.max_pool2d(x, 2),
    "average": lambda x: F.avg_pool2d(x, 2),
    "padding": lambda x: F.pad(x, (1, 1, 1, 1)),
    "view": lambda x: x.flatten(2).transpose(1, 2).reshape(1, 30, 30, 8).permute(0, 3, 1, 2),
}
# Where a runtime rounds in its own way: by how many of 255 values that may change an output.
OWN_ROUNDING = {("tflite", "concatenation"): 4, ("tflite", "average"): 3}


def _network(operation) -> tuple[Int8Network, list[torch.Tensor]]:
    torch.manual_seed(0)
    net = Function(
        lambda net, x: net.b(operation(net.a(x))).mean((2, 3)), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 5, 3)
    ).eval()
    images = [2 * torch.randn(1, 3, 32, 32) for _ in range(16)]
    deployed, steps = prepare(net, classifier_spec())
    corrected, table = calibrate(deployed, images)
    return Int8Network.settled(corrected, table, steps), images


def _run_tflite(path, image: torch.Tensor) -> np.ndarray:
    from ai_edge_litert import interpreter

    runner = interpreter.Interpreter(str(path)).get_signature_runner()
    (output,) = runner(image=np.ascontiguousarray(image.permute(0, 2, 3, 1))).values()
    return output


def _run_executorch(path, image: torch.Tensor) -> np.ndarray:
    from executorch.extension.pybindings import _portable_lib

    return _portable_lib._load_for_executorch(str(path)).forward((image,), clone_outputs=True)[0].numpy()


def _run_coreml(path, image: torch.Tensor) -> np.ndarray:
    (output,) = Interpreter(path, mode="declared").predict({"image": image.numpy()}).values()
    return output


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("converter", "run"),
    [
        (tflite.CONVERTER, _run_tflite),
        (executorch.CONVERTER, _run_executorch),
        (coreml.CONVERTER, _run_coreml),
    ],
    ids=["tflite", "executorch", "coreml"],
)
def test_kernels_compute_what_the_int8_network_does(name, converter, run, tmp_path):
    network, images = _network(OPERATIONS[name])
    reference = network.reference()
    program = export(network.module(), classifier_spec(), precision=Precision.INT8)
    converted = converter.convert(program, converter.Options(), tmp_path)
    (qparams,) = {network.table.activations[node.name] for node in network.annotation().quantized[-1:]}
    with torch.no_grad():
        for image in images[:4]:
            moved = np.abs(run(tmp_path / converted.entry, image) - reference(image).numpy()).max()
            assert moved <= (OWN_ROUNDING.get((converter.name, name), 0) + 0.01) * qparams.scale
    if converter is tflite.CONVERTER:
        assert converted.lowering.ops["QUANTIZE"] == 1, "a float operation between int8 ones"


def test_equal_numbers_are_stored_once(tmp_path):
    network, _ = _network(F.relu)
    program = export(network.module(), classifier_spec(), precision=Precision.INT8)
    data = (tmp_path / tflite.CONVERTER.convert(program, tflite.CONVERTER.Options(), tmp_path).entry).read_bytes()
    zero_points = np.array([8], "<u4").tobytes() + bytes(8 * 8)  # a vector: its length, then int64 for 8 channels
    assert data.count(zero_points) == 1  # of the weight and the bias of the first convolution
