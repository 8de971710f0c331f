"""The network of a setup folder in int8, and its files: `python -m benchmarks.int8_conversion SETUP --out FOLDER`.

Its weights are random, so no set of images has its classes; any photographs give its tensors their ranges.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import edgevit
from edgevit import log
from edgevit.checkpoints.model_source import load_model
from edgevit.data.datasets import open_dataset
from edgevit.quantization.ptq import post_training, save_quantized

_IMAGES = 16


def main() -> None:
    """Set the ranges, write the int8 checkpoint, convert it for all targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setup", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    log.configure()
    model = json.loads((arguments.setup / "setup.json").read_text())["model"]
    weights, checkpoint = arguments.setup / "weights.pt", arguments.out / "int8.pt"
    source = load_model(model, weights=weights)
    network = post_training(source, open_dataset("photos", "train"), _IMAGES)
    save_quantized(checkpoint, source, network, {"method": "ptq"})
    edgevit.convert(model, weights=checkpoint, target="all", precision="int8", out=arguments.out, cache=False)


if __name__ == "__main__":
    main()
