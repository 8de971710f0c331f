"""How PyTorch convolves on a CPU, where the algorithm changes the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def plain_sums(weight: Tensor, strides: Sequence[int]) -> Iterator[None]:
    """Within it, a convolution with this weight (O, I/groups, *kernel) adds exactly the products of its definition.

    oneDNN computes dense kernels of stride 1 by Winograd's algorithm, and so does NNPACK for 16 images or more: sums of
    integers are not integers then.
    """
    from torch.backends import mkldnn, nnpack

    if weight.shape[1] == 1 or weight[0, 0].numel() == 1 or max(strides) > 1:
        yield
        return
    # mkldnn.flags would set more than this one; torch declares its properties as if they belonged to the class.
    before, mkldnn.enabled = mkldnn.enabled, False  # type: ignore[assignment]
    try:
        with nnpack.flags(enabled=False):
            yield
    finally:
        mkldnn.enabled = before
