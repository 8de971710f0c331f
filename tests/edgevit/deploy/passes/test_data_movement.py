"""Rearrangement against the chains of reshapes and permutations that it stands for."""

from __future__ import annotations

import math
import random

import torch

from edgevit.deploy.passes.data_movement import Rearrangement


def _random_chain(rng: random.Random) -> tuple[Rearrangement, torch.Tensor, torch.Tensor]:
    """A rearrangement, a tensor, and what one to five reshapes and permutations make of it."""
    sizes = [rng.choice([1, 1, 2, 3, 4, 6]) for _ in range(rng.randint(1, 4))]
    source = torch.arange(math.prod(sizes)).reshape(sizes)
    together, value = Rearrangement.identity(sizes), source
    for _ in range(rng.randint(1, 5)):
        axes = rng.sample(range(value.dim()), value.dim())
        left, shape = value.numel(), []
        while left > 1 and len(shape) < 5:
            shape.append(rng.choice([size for size in range(1, left + 1) if left % size == 0]))
            left //= shape[-1]
        shape.append(left)
        if rng.random() < 0.5:
            together, value = together.permuted(axes), value.permute(axes)
        elif (longer := together.reshaped(shape)) is not None:
            together, value = longer, value.reshape(shape)
    return together, source, value


def test_random_chains_are_what_their_rearrangements_do():
    rng = random.Random(1)
    for _ in range(500):
        together, source, value = _random_chain(rng)
        assert together.target_shape == tuple(value.shape)
        assert torch.equal(together.apply(source), value)
        assert torch.equal(together.inverse.apply(value), source)
        assert sum(kind == "permute" for kind, _ in together.steps()) == together.moves


def test_restriction_rearranges_what_broadcasts():
    rng, tried = random.Random(2), 0
    for _ in range(500):
        together, source, value = _random_chain(rng)
        sizes = [rng.choice([1, size]) for size in source.shape]
        restricted = together.restricted(sizes)
        if restricted is not None:
            small = torch.arange(math.prod(sizes)).reshape(sizes)
            whole = together.apply(small.expand(source.shape))
            assert torch.equal(restricted.apply(small).expand(value.shape), whole)
            tried += 1
    assert tried > 100


def test_tokens_of_a_map_permute_the_map():
    tokens = Rearrangement.identity((1, 6, 4, 5)).reshaped((1, 6, 20)).permuted((0, 2, 1))
    assert tokens.steps() == (("permute", (0, 2, 3, 1)), ("reshape", (1, 20, 6)))
    assert tokens.inverse.steps() == (("reshape", (1, 4, 5, 6)), ("permute", (0, 3, 1, 2)))


def test_window_partition_of_rank_6_is_one_transposition_of_rank_4():
    windows = Rearrangement.identity((2, 8, 12, 3)).reshaped((2, 2, 4, 3, 4, 3)).permuted((0, 1, 3, 2, 4, 5))
    steps = windows.reshaped((12, 16, 3)).steps()
    assert steps == (("reshape", (4, 4, 3, 12)), ("permute", (0, 2, 1, 3)), ("reshape", (12, 16, 3)))


def test_reshape_across_a_divisor_is_refused():
    assert Rearrangement.identity((4, 6)).permuted((1, 0)).reshaped((4, 6)) is None
