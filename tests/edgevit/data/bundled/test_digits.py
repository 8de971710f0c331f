import hashlib
import sys

import numpy as np
import pytest

from edgevit.data.bundled.digits import held_out_mask, load_digits_split, to_bytes
from edgevit.errors import MissingDependency


@pytest.fixture(scope="module")
def split():
    pytest.importorskip("sklearn", reason="scikit-learn holds the digits")
    return load_digits_split()


def test_split_has_documented_shapes(split):
    assert split.train_images.shape == (1297, 8, 8, 3)
    assert split.test_images.shape == (500, 8, 8, 3)
    assert split.train_images.dtype == split.test_images.dtype == np.uint8
    assert split.train_labels.shape == (1297,)
    assert split.test_labels.shape == (500,)
    assert split.labels == tuple("0123456789")


def test_split_is_stratified(split):
    train, test = np.bincount(split.train_labels), np.bincount(split.test_labels)
    share = (train + test) * 500 / 1797
    assert np.abs(test - share).max() < 1
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_split_never_changes(split):
    fingerprint = hashlib.sha256(split.test_images.tobytes() + split.test_labels.astype("<i8").tobytes()).hexdigest()
    assert fingerprint == "af7933873760290e4a75a11ea2c3509464bd6926a2b473ed25053361187743b6"


def test_split_keeps_every_image_once(split):
    from sklearn.datasets import load_digits

    everything = np.concatenate([split.train_images, split.test_images]).reshape(1797, -1)
    original = to_bytes(load_digits().images).reshape(1797, -1)
    assert sorted(map(bytes, everything)) == sorted(map(bytes, original))


def test_counts_scale_to_full_range_with_grey_replicated():
    counts = np.array([[[0.0, 1.0, 8.0, 15.0, 16.0]]])
    assert to_bytes(counts)[0, 0].tolist() == [[value] * 3 for value in (0, 16, 128, 239, 255)]


def test_held_out_quota_goes_to_largest_remainders_then_lower_class():
    labels = np.array([0] * 5 + [1] * 5 + [2] * 2)
    held_out = held_out_mask(np.arange(12, dtype=np.uint8), labels, 5)
    # Shares 25/12, 25/12 and 10/12: 2 + 2 + 0, and the fifth goes to class 2.
    assert np.bincount(labels[held_out]).tolist() == [2, 2, 1]
    tied = held_out_mask(np.arange(4, dtype=np.uint8), np.array([0, 0, 1, 1]), 1)
    assert tied.tolist()[2:] == [False, False]
    assert tied.sum() == 1


def test_identical_images_are_distinguished_by_index():
    held_out = held_out_mask(np.zeros((6, 8, 8, 3), np.uint8), np.zeros(6, np.int64), 3)
    assert held_out.sum() == 3
    assert held_out.tolist() != [True] * 3 + [False] * 3


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency) as caught:
        load_digits_split()
    assert caught.value.fix == 'pip install "edgevit[demo]"'
