"""Random changes of batches: within their bounds, masks with their images, and alike for any number of processes."""

from __future__ import annotations

import pytest
import torch

from edgevit.training.augment import Share, augment, mix
from edgevit.training.recipe import Augmentation

GREY = torch.tensor([0.299, 0.587, 0.114])
EVERYTHING = Augmentation(0.1, 0.1, 10.0, crop_area=0.4, horizontal_flip=0.5, color_jitter=0.4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def square(count: int = 32) -> torch.Tensor:
    """Images (count, 3, 16, 16) with a bright square in the middle."""
    images = torch.zeros(count, 3, 16, 16)
    images[:, :, 7:9, 7:9] = 1.0
    return images


def test_augmentation_moves_each_image_within_its_bounds():
    images, classes = square(), torch.arange(32)
    moved, target = augment(images, classes, Augmentation(shift=0.25), seeded())
    assert moved.shape == images.shape
    assert target is classes
    mass = moved.sum((1, 2, 3))
    torch.testing.assert_close(mass, images.sum((1, 2, 3)), rtol=1e-3, atol=1e-3)  # nothing left the image
    rows = (moved.sum((1, 3)) * torch.arange(16.0)).sum(1) / moved.sum((1, 2, 3))  # centre of mass, (N,)
    offsets = rows - 7.5
    assert offsets.abs().max() <= 4.0
    assert offsets.std() > 1.0


def test_augmentation_of_zero_is_the_identity():
    images, classes = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])
    assert augment(images, classes, Augmentation(), torch.Generator()) == (images, classes)


def test_flip_happens_as_often_as_asked_and_is_exact():
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(2000, 3, 8, 8)
    flipped, _ = augment(images, torch.zeros(2000), Augmentation(horizontal_flip=0.3), seeded())
    mirrored = [torch.allclose(one, images[0].flip(-1), atol=1e-3) for one in flipped]
    kept = [torch.allclose(one, images[0], atol=1e-3) for one in flipped]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 0.26 < sum(mirrored) / 2000 < 0.34


def test_crop_shows_a_window_of_at_least_the_area_inside_the_image():
    ramp = torch.linspace(0, 1, 32)
    images = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), torch.zeros(32, 32)]).expand(
        500, 3, 32, 32
    )
    cropped, _ = augment(images, torch.zeros(500), Augmentation(crop_area=0.25), seeded())
    width, height = ((cropped[:, c].amax((1, 2)) - cropped[:, c].amin((1, 2))) for c in (0, 1))
    area = width * height  # in shares: the ramps run from 0 to 1 over the image
    assert area.min() > 0.2
    assert area.max() > 0.9
    assert (width / height).max() < 1.5
    assert (width / height).min() > 0.66


def test_masks_move_with_their_images_and_keep_their_values():
    images = square(8)
    masks = (images[:, 0] * 7).to(torch.uint8)
    moved, target = augment(images, masks, Augmentation(shift=0.2, horizontal_flip=0.5, crop_area=0.5), seeded())
    assert target.dtype is torch.uint8
    assert set(target.unique().tolist()) == {0, 7}
    assert (moved[:, 0][target == 7] > 0.2).all()
    assert (moved[:, 0][target == 0] < 0.8).all()


def test_colours_change_and_places_do_not():
    images, masks = torch.randn(4, 3, 8, 8), torch.randint(0, 3, (4, 8, 8))
    changed, target = augment(images, masks, Augmentation(color_jitter=0.5), seeded())
    assert torch.equal(target, masks)
    for one, other in zip(images, changed, strict=True):
        # Linear in the pixel and in its grey value: equal pixels stay equal, whatever was drawn.
        design = torch.stack([one[0], torch.tensordot(GREY, one, 1), torch.ones(8, 8)], -1).view(-1, 3)
        fit = torch.linalg.lstsq(design, other[0].reshape(-1, 1)).solution
        torch.testing.assert_close(design @ fit, other[0].reshape(-1, 1), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(one, other, atol=0.05)


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixture_says_truly_how_much_of_each_class_is_in_it(alphas):
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 20, 20)  # the image of class c is c everywhere
    generator, shares = seeded(), []
    for _ in range(20):
        mixture = mix(images, torch.arange(4), *alphas, generator)
        (one, kept), (other, rest) = mixture.targets
        assert kept + rest == pytest.approx(1)
        assert other.tolist() == [2, 3, 0, 1]
        torch.testing.assert_close(mixture.images.mean((1, 2, 3)), kept * one + rest * other)
        shares.append(kept)
    assert max(shares) - min(shares) > 0.3


def test_no_mixing_returns_what_was_given():
    images, classes = torch.randn(4, 3, 8, 8), torch.arange(4)
    mixture = mix(images, classes, 0.0, 0.0, seeded())
    assert mixture.images is images
    assert mixture.targets == ((classes, 1.0),)


def test_masks_are_cut_like_their_images():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 20, 20)
    masks = torch.arange(4)[:, None, None].expand(4, 20, 20)
    mixture = mix(images, masks, 0.0, 1.0, seeded(1))
    ((target, share),) = mixture.targets
    assert share == 1.0
    assert torch.equal(mixture.images[:, 0], target.float())
    assert (target != masks).any()


def test_two_processes_see_together_what_one_sees():
    images, masks = torch.randn(8, 3, 16, 16), torch.randint(0, 3, (8, 16, 16))

    def batch(share: Share):
        generator = seeded(3)
        own = augment(images[share.rank :: share.world], masks[share.rank :: share.world], EVERYTHING, generator, share)
        mixture = mix(*own, 0.4, 1.0, generator)
        return mixture.images, mixture.targets[0][0], generator.get_state()

    whole, target, state = batch(Share())
    for rank in (0, 1):
        own, own_target, own_state = batch(Share(rank, 2))
        torch.testing.assert_close(own, whole[rank::2])
        assert torch.equal(own_target, target[rank::2])
        assert torch.equal(own_state, state)
