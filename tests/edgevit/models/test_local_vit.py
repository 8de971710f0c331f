"""Window attention against a plain form of it: shifts by roll, windows and masks pixel by pixel."""

from __future__ import annotations

import pytest
import torch

from edgevit.models import create_model, get_spec
from edgevit.models.layers import to_pixels
from edgevit.models.local_vit import WindowAttention, _moved


def _plain(attention: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Every pixel attends to those of its window that were in the same piece of the map before the move."""
    size, side, step, heads = attention.size, attention.window, attention.step, attention.heads
    batch, channels = x.shape[:2]
    qkv = to_pixels(attention.qkv(x)).reshape(batch, size, size, 3, heads, channels // heads)
    at = [(row, column) for row in range(size) for column in range(size)]
    out = torch.zeros(batch, channels, size, size)
    for row, column in at:
        moved = ((row - step) % size, (column - step) % size)

        def is_neighbour(other: tuple[int, int], own: tuple[int, int] = moved) -> bool:
            place = tuple((axis - step) % size for axis in other)
            same_window = all(p // side == m // side for p, m in zip(place, own, strict=True))
            # Neither came around the edge without the other.
            return same_window and all(
                (p >= size - step) == (m >= size - step) for p, m in zip(place, own, strict=True)
            )

        neighbours = [other for other in at if is_neighbour(other)]
        query = qkv[:, row, column, 0] * (channels // heads) ** -0.5  # (N, heads, d)
        keys = torch.stack([qkv[:, r, c, 1] for r, c in neighbours], 2)  # (N, heads, T, d)
        values = torch.stack([qkv[:, r, c, 2] for r, c in neighbours], 2)
        away = [
            (moved[0] - (r - step) % size + side - 1) * (2 * side - 1) + moved[1] - (c - step) % size + side - 1
            for r, c in neighbours
        ]
        bias = attention.relative_position_bias_table[away].T  # (heads, T)
        weights = (torch.einsum("nhd,nhtd->nht", query, keys) + bias).softmax(-1)
        out[:, :, row, column] = torch.einsum("nht,nhtd->nhd", weights, values).reshape(batch, channels)
    return attention.proj(out)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_attention_stays_in_its_windows(step):
    torch.manual_seed(0)
    attention = WindowAttention(64, 8, 4, step).eval()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), _plain(attention, x), rtol=1e-4, atol=1e-5)


def test_moving_is_a_roll_and_comes_back():
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(_moved(x, 2), x.roll((-2, -2), (2, 3)))
    assert torch.equal(_moved(_moved(x, 2), -2), x)


def test_windows_move_in_every_other_block_until_one_holds_the_map():
    with torch.device("meta"):
        model = create_model("local_vit_tiny")
    attentions = [[block.attn for block in layer.blocks] for layer in model.layers]
    assert [[a.step for a in layer] for layer in attentions] == [[0, 3], [0, 3], [0, 3] * 3, [0, 0]]
    assert {a.window for layer in attentions for a in layer} == {7}


@pytest.mark.parametrize("size", [32, 96])
def test_other_sizes_have_windows_that_tile_them(size):
    with torch.device("meta"):
        model = get_spec("local_vit_tiny").build(7, size).eval()
        assert model(torch.empty(2, 3, size, size)).shape == (2, 7)
