"""Random changes of training batches on any device: places, colours, and mixtures of two images.

Every draw is made for the batch of all processes together, and each process takes the rows of its images: the same
seed changes an image in the same way however many processes share the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgevit.training.recipe import Augmentation

_DRAWS = 12  # random numbers per image
_LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in grey, ITU-R BT.601
_LONGEST_SIDE = math.log(4 / 3)  # of a crop, over the shortest


@dataclass(frozen=True, slots=True)
class Share:
    """Which images of a batch are this process's: those at rank, rank + world, rank + 2 world and so on."""

    rank: int = 0
    world: int = 1

    def draws(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers in [-1, 1) for `count` images of this process: (count, _DRAWS)."""
        return (torch.rand(count * self.world, _DRAWS, generator=generator) * 2 - 1)[self.rank :: self.world]


ALONE = Share()


def places(draws: Tensor, augmentation: Augmentation) -> Tensor:
    """Where each output pixel is read from, (N, 2, 3): rotation, scale, crop, flip and shift by draws (N, _DRAWS)."""
    angle = draws[:, 0] * math.radians(augmentation.rotation_degrees)
    zoom = 1 + draws[:, 1] * augmentation.scale
    shift = draws[:, 2:4] * (2 * augmentation.shift)  # sampling coordinates run over 2 from edge to edge
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # (N, 2, 2)
    if augmentation.crop_area < 1:
        area = 1 + (draws[:, 4] - 1) / 2 * (1 - augmentation.crop_area)
        stretch = (draws[:, 5] * _LONGEST_SIDE / 2).exp()
        sides = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch], 1).clamp(max=1)  # (N, 2) of x and y
        matrix = matrix * sides[:, None]
        shift = shift + draws[:, 6:8] * (1 - sides)
    flip = torch.where(draws[:, 8] < 2 * augmentation.horizontal_flip - 1, -1.0, 1.0)
    matrix = matrix * torch.stack([flip, torch.ones_like(flip)], 1)[:, None]
    return torch.cat([matrix, shift[:, :, None]], 2)


def moved(images: Tensor, affine: Tensor, mode: str = "bilinear") -> Tensor:
    """Images (N, C, S, S) read at `places`, (N, 2, 3); the edge pixel fills what comes into view."""
    grid = F.affine_grid(affine.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def recolored(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Brightness, contrast and saturation of normalised images (N, 3, S, S) changed by draws (N, _DRAWS)."""
    brightness, contrast, saturation = (strength * draws[:, 9:12]).to(images.device).T[:, :, None, None, None]
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * (1 + contrast)
    grey = (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    return grey + (images - grey) * (1 + saturation) + brightness


def augment(
    images: Tensor, target: Tensor, augmentation: Augmentation, generator: torch.Generator, share: Share = ALONE
) -> tuple[Tensor, Tensor]:
    """Change each image (N, 3, S, S) by its own random amount, and its target with it where that is a mask (N, S, S).

    Draws come from the CPU generator, whatever the device.
    """
    if augmentation == Augmentation():
        return images, target
    draws = share.draws(len(images), generator)
    if augmentation.moves:
        affine = places(draws, augmentation)
        images = moved(images, affine)
        if target.ndim > 1:
            target = moved(target[:, None].float(), affine, mode="nearest")[:, 0].to(target.dtype)
    if augmentation.color_jitter:
        images = recolored(images, draws, augmentation.color_jitter)
    return images, target


@dataclass(frozen=True, slots=True)
class Mixture:
    """Images (N, 3, S, S) with their targets, each with its share; the shares sum to 1."""

    images: Tensor
    targets: tuple[tuple[Tensor, float], ...]


def mix(images: Tensor, target: Tensor, mixup_alpha: float, cutmix_alpha: float, generator: torch.Generator) -> Mixture:
    """Mix each image with the one half a batch further on: by blending, or by a rectangle of it.

    target: a class each (N,), or a mask each (N, S, S), which is cut like its image. One draw serves the whole batch:
    how much is mixed follows the beta distribution of the alpha, a coin decides where both are on; 0 is off.
    Half a batch is the same distance in every process's share of a batch, and order is random: a fixed pairing will do.
    """
    if not mixup_alpha and not cutmix_alpha:
        return Mixture(images, ((target, 1.0),))
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    cuts = random.random() < (0.5 if mixup_alpha else 1.0) if cutmix_alpha else False
    alpha = cutmix_alpha if cuts else mixup_alpha
    kept = float(random.beta(alpha, alpha))
    half = len(images) // 2
    other, other_target = images.roll(half, 0), target.roll(half, 0)
    if not cuts:
        return Mixture(kept * images + (1 - kept) * other, ((target, kept), (other_target, 1 - kept)))
    top, bottom = _span(images.shape[-2], kept, random)
    left, right = _span(images.shape[-1], kept, random)
    images = images.clone()
    images[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    if target.ndim > 1:
        target = target.clone()
        target[..., top:bottom, left:right] = other_target[..., top:bottom, left:right]
        return Mixture(images, ((target, 1.0),))
    kept = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    return Mixture(images, ((target, kept), (other_target, 1 - kept)))


def _span(size: int, kept: float, random: np.random.Generator) -> tuple[int, int]:
    """First and last + 1 line of a rectangle with the share 1 - kept of the area, whose centre lies anywhere."""
    length = size * math.sqrt(1 - kept)
    centre = random.random() * size
    return max(0, round(centre - length / 2)), min(size, round(centre + length / 2))
