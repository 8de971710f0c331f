"""`python -m benchmarks.overlays ARTIFACT...`: an image of what segmentation artifacts predict on unseen tiles.

A row per photograph that the tiles are cut from: the tile, its true mask, and the prediction of each artifact, in the
order of the command line, which `make int8` leaves in artifacts/int8/. The result is results/tiles.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import edgevit
from edgevit import log
from edgevit.data.bundled.tiles import TEST_PER_IMAGE
from edgevit.data.datasets import open_dataset
from edgevit.data.postprocess import overlay, save_png
from edgevit.data.segmentation_datasets import MaskSet

RESULT = Path(__file__).parent / "results" / "tiles.png"
_ENLARGED, _MARGIN = 2, 4  # times, and white pixels between tiles
_BACKGROUND = 0


def main() -> None:
    """Run the artifacts and write the image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    arguments = parser.parse_args()
    log.configure()
    save_png(sheet([edgevit.load_artifact(path) for path in arguments.artifacts]), RESULT)


def sheet(artifacts: list[edgevit.Artifact]) -> np.ndarray:
    """uint8 (H, W, 3): the middle test tile of each photograph, its target and the predictions."""
    tiles = open_dataset("tiles", "test")
    assert isinstance(tiles, MaskSet)
    rows = []
    for index in range(TEST_PER_IMAGE // 2, len(tiles), TEST_PER_IMAGE):
        tile = np.asarray(tiles.images[index])
        masks = [tiles.masks[index], *(np.asarray(artifact.predict(tile)) for artifact in artifacts)]
        rows.append(_beside([tile, *(overlay(tile, mask, clear=[_BACKGROUND]) for mask in masks)]))
    return np.concatenate(rows)


def _beside(tiles: list[np.ndarray]) -> np.ndarray:
    """Enlarged tiles in a row, a margin around each."""
    pad = ((_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))
    return np.concatenate(
        [np.pad(tile.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1), pad, constant_values=255) for tile in tiles],
        axis=1,
    )


if __name__ == "__main__":
    main()
