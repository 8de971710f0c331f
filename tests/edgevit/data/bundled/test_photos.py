"""The bundled pieces of photographs: the same everywhere, and no pixel in both splits."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgevit.data.bundled import photos
from edgevit.data.datasets import open_dataset


@pytest.fixture(scope="module")
def split() -> photos.PhotosSplit:
    return photos.load_photos_split()


def test_every_image_has_its_pieces(split):
    assert len(split.labels) == 18 == len(set(split.labels))
    assert split.train_images.shape == (18 * 200, 32, 32, 3)
    assert split.test_images.shape == (18 * 80, 32, 32, 3)
    assert split.train_images.dtype == np.uint8
    assert (np.bincount(split.train_targets) == 200).all()
    assert (np.bincount(split.test_targets) == 80).all()


def test_pieces_are_the_same_every_time(split):
    again = photos.load_photos_split()
    assert np.array_equal(split.test_images, again.test_images)
    assert len({hashlib.sha256(image.tobytes()).digest() for image in split.test_images}) == len(split.test_images)


def test_test_pieces_come_from_the_right_part(monkeypatch):
    seen = {}

    def piece(image, low, high, random):
        seen.setdefault((low, high), 0)
        seen[low, high] += 1
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(photos, "_piece", piece)
    photos.load_photos_split()
    assert seen == {(0.0, 0.6): 3600, (0.6, 1.0): 1440}


def test_piece_stays_within_its_part():
    ramp = np.tile(np.arange(300, dtype=np.float32) > 180, (200, 1)) * np.float32(255)  # dark up to 60 %, then bright
    for index in range(50):
        left = photos._piece(ramp, 0.0, 0.6, np.random.default_rng(index))
        right = photos._piece(ramp, 0.61, 1.0, np.random.default_rng(index))
        assert left.mean() < 110
        assert right.mean() > 145


def test_both_splits_open_by_name():
    train, test = (open_dataset("photos", part) for part in ("train", "test"))
    assert train.labels == test.labels
    assert (train.name, test.name) == ("photos/train", "photos/test")
