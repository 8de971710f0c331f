"""`python -m tests.golden.make_int8_checkpoints`: int8 checkpoints that later versions must still read.

One of each family that runs on phones, at small sizes. Weights repeat a short sequence, so that the packed files stay
small; ranges come from synthetic images. Beside each lies what its network computes. Made once: a change of edgevit
that needs them made again is one that users' checkpoints would not survive either.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import tempfile
from pathlib import Path

import torch
from torch import nn

import edgevit
from edgevit.checkpoints.checkpoint import save_checkpoint
from edgevit.checkpoints.metadata import metadata_for
from edgevit.graph.capture import example_input
from edgevit.quantization.calibration import calibrate
from edgevit.quantization.quantized_model import Int8Network, prepare

FOLDER = Path(__file__).parent / "int8"
SIZES = {"van_b0": 64, "mobile_former_26m": 64, "segnetr_32": 32, "vt_resnet18": 64}
CLASSES = 5
_PERIOD = 61  # a prime, so that no two rows of a weight begin alike


def seeded_network(name: str) -> nn.Module:
    """The model with weights that pack well: one short random sequence over and over, at the scale of each layer."""
    network = edgevit.create_model(name, num_classes=CLASSES, input_size=SIZES[name])
    generator = torch.Generator().manual_seed(7)
    sequence = torch.randn(_PERIOD, generator=generator)
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            repeated = sequence.repeat(tensor.numel() // _PERIOD + 1)[: tensor.numel()].reshape(tensor.shape)
            if key.endswith("running_var"):
                tensor.copy_(1 + 0.2 * repeated.abs())
            elif tensor.dim() > 1:
                tensor.copy_(repeated * (1 / tensor[0].numel()) ** 0.5)
            elif key.endswith("weight"):
                tensor.copy_(1 + 0.02 * repeated)
            else:
                tensor.copy_(0.02 * repeated)
    return network.eval()


def int8_network(network: nn.Module, size: int) -> Int8Network:
    """The network with ranges of eight synthetic images."""
    deployed, passes = prepare(network, network.edgevit_spec)
    corrected, table = calibrate(deployed, [example_input((1, 3, size, size), seed=i) for i in range(8)])
    return Int8Network.settled(corrected, table, passes)


def main() -> None:
    """Write NAME.pt.xz and NAME.json for every model."""
    FOLDER.mkdir(exist_ok=True)
    for name, size in SIZES.items():
        network = seeded_network(name)
        spec = network.edgevit_spec
        int8 = int8_network(network, size)
        metadata = metadata_for(spec, tuple(f"class {i}" for i in range(CLASSES)))
        metadata = dataclasses.replace(metadata, quantization={"method": "ptq"})
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "int8.pt"
            save_checkpoint(path, network, metadata, int8.checkpoint_part())
            (FOLDER / f"{name}.pt.xz").write_bytes(lzma.compress(path.read_bytes()))
        with torch.no_grad():
            outputs = int8.reference()(example_input((1, 3, size, size), seed=99)).flatten()[:64]
        activations = {key: [q.scale, q.zero_point] for key, q in int8.table.activations.items()}
        facts = {"input_seed": 99, "outputs": outputs.tolist(), "activations": activations}
        (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
