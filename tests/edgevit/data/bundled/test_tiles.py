"""The bundled tiles: the same everywhere, no pixel in both splits, masks that fit what is seen."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.data.bundled import tiles
from edgevit.data.datasets import open_dataset
from edgevit.spec import Task


@pytest.fixture(scope="module")
def split() -> tiles.TilesSplit:
    return tiles.load_tiles_split()


def test_every_image_has_its_pieces(split):
    for images, masks in ((split.train_images, split.train_masks), (split.test_images, split.test_masks)):
        assert images.shape == (1200, 64, 64, 3)
        assert masks.shape == (1200, 64, 64)
        assert images.dtype == masks.dtype == np.uint8
        assert set(np.unique(masks)) == set(range(len(split.labels)))


def test_each_image_shows_its_own_class_and_background(split):
    for image, label in enumerate(("coin", "gland", "ink", "ink", "galaxy")):
        masks = split.test_masks[240 * image : 240 * (image + 1)]
        assert set(np.unique(masks)) == {0, split.labels.index(label)}


def test_pieces_are_the_same_every_time(split):
    again = tiles._piece(*tiles._images()[0], 0.6, 1.0, np.random.default_rng([1, 0, 7]))
    assert np.array_equal(split.test_images[7], again[0])
    assert np.array_equal(split.test_masks[7], again[1])


def test_masks_fit_what_is_seen(split):
    coins, masks = split.test_images[:240, :, :, 0].astype(float), split.test_masks[:240]
    both = [index for index in range(240) if 0.1 < masks[index].mean() < 0.9]
    lighter = [coins[i][masks[i] == 1].mean() > coins[i][masks[i] == 0].mean() for i in both]
    assert np.mean(lighter) > 0.95


def test_piece_and_its_mask_stay_together_and_within_their_part():
    grey = np.tile(np.arange(300, dtype=np.float32) > 180, (200, 1)) * np.float32(255)  # dark up to 60 %, then bright
    mask = (grey > 0).astype(np.uint8)
    for index in range(50):
        _, left = tiles._piece(grey, mask, 0.0, 0.6, np.random.default_rng(index))
        pixels, right = tiles._piece(grey, mask, 0.61, 1.0, np.random.default_rng(index))
        assert (left.max(), right.min()) == (0, 1)
        pixels, across = tiles._piece(grey, mask, 0.0, 1.0, np.random.default_rng(index))
        if 0.2 < across.mean() < 0.8:
            assert pixels[across == 1].mean() > pixels[across == 0].mean() + 50


def test_both_splits_open_by_name():
    train, test = (open_dataset("tiles", part) for part in ("train", "test"))
    assert train.labels == test.labels == tiles.LABELS
    assert (train.name, test.name, train.task) == ("tiles/train", "tiles/test", Task.SEGMENT)
