"""How a baseline becomes a file: `python -m benchmarks.baseline_conversions NAME SETUP --out FOLDER`.

Every converter is used as its documentation shows, with its defaults. Half of them live in the peers' environment, so
every function imports only what it needs. setup.json, weights.pt and input.npy of the setup folder are the start.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn

INPUT = "image"  # the input's name in the ONNX file
# What needs the peers' environment; the rest runs beside edgevit, where importing it costs what a user would pay.
PEER_CONVERSIONS = frozenset({"onnx2tf", "litert_torch", "onnx"})


def baseline_network(setup: Path) -> nn.Module:
    """The network in the form of its official code, with the weights of the setup, ready for inference."""
    import torch

    from benchmarks.reference import build

    facts = json.loads((setup / "setup.json").read_text())
    network = build(facts["model"], facts["classes"])
    network.load_state_dict(torch.load(setup / "weights.pt", weights_only=True))
    return network.eval()


def convert_executorch(network: nn.Module, image: np.ndarray, out: Path) -> None:
    """Plain XNNPACK lowering."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(network, (torch.from_numpy(image),))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (out / "model.pte").write_bytes(lowered.to_executorch().buffer)


def convert_coreml(network: nn.Module, image: np.ndarray, out: Path) -> None:
    """A traced network to an ML Program, in float32 as our own."""
    import coremltools as ct
    import torch

    traced = torch.jit.trace(network, torch.from_numpy(image))
    package = ct.convert(
        traced,
        inputs=[ct.TensorType(shape=image.shape)],
        convert_to="mlprogram",
        compute_precision=ct.precision.FLOAT32,
    )
    package.save(str(out / "model.mlpackage"))


def convert_onnx(network: nn.Module, image: np.ndarray, out: Path) -> None:
    """ONNX by torch's own exporter."""
    import torch

    torch.onnx.export(
        network,
        (torch.from_numpy(image),),
        str(out / "model.onnx"),
        dynamo=True,
        opset_version=20,
        external_data=False,
        input_names=[INPUT],
        verbose=False,
    )


def convert_onnx2tf(network: nn.Module, image: np.ndarray, out: Path) -> None:
    """ONNX, then onnx2tf with its defaults; its float32 file."""
    convert_onnx(network, image, out)
    import onnx2tf

    # Its check of every op wants images from the network; any will do.
    images = np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32)
    onnx2tf.onnx2tf.download_test_image_data = lambda: images
    onnx2tf.convert(input_onnx_file_path=str(out / "model.onnx"), output_folder_path=str(out / "onnx2tf"))
    (out / "onnx2tf" / "model_float32.tflite").rename(out / "model.tflite")


def convert_litert_torch(network: nn.Module, image: np.ndarray, out: Path) -> None:
    """Google's own converter, with its defaults."""
    import litert_torch
    import torch

    litert_torch.convert(network, (torch.from_numpy(image),)).export(str(out / "model.tflite"))


CONVERSIONS: dict[str, Callable[[nn.Module, np.ndarray, Path], None]] = {
    "executorch": convert_executorch,
    "coreml": convert_coreml,
    "onnx2tf": convert_onnx2tf,
    "litert_torch": convert_litert_torch,
    "onnx": convert_onnx,
}


def main() -> None:
    """Write the file; a failure is a trace on stderr, whose last line is kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONVERSIONS)
    parser.add_argument("setup", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    network, image = baseline_network(arguments.setup), np.load(arguments.setup / "input.npy")
    CONVERSIONS[arguments.name](network, image, arguments.out)


if __name__ == "__main__":
    main()
