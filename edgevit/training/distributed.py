"""Training by several processes: which of them this is, who gets which images, and what all must agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from edgevit.compat.torch import is_batch_norm
from edgevit.errors import UsageError
from edgevit.training.augment import Share

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def placement(devices: int) -> dict[str, Any]:
    """Lightning's arguments for `devices` processes here, or for what torchrun started, on this machine or on many.

    Processes are the GPUs of each machine, or copies of the calling program on the CPU.
    """
    from lightning.pytorch.strategies import DDPStrategy

    local = int(os.environ.get("LOCAL_WORLD_SIZE", devices))
    world = int(os.environ.get("WORLD_SIZE", local)) if "LOCAL_WORLD_SIZE" in os.environ else local
    gpus = torch.cuda.device_count()
    if gpus and local > gpus:
        raise UsageError(f"{local} processes for {gpus} GPUs", fix=f"use --devices {gpus}")
    facts: dict[str, Any] = {"accelerator": "cuda" if gpus else "cpu", "devices": local, "num_nodes": world // local}
    if world > 1:
        # Buffers: `agree_on` evens them out once an epoch. With every step, processes that score one batch more than
        # others would wait for them for ever.
        facts |= {"strategy": DDPStrategy(broadcast_buffers=False), "sync_batchnorm": bool(gpus)}
    return facts


def share_of(trainer: Trainer) -> Share:
    """This process's share of the work of a run."""
    return Share(trainer.global_rank, trainer.world_size)


def own_batch(batch_size: int, share: Share) -> int:
    """Images of a batch that are this process's. UsageError for a batch that does not divide."""
    if batch_size % share.world or batch_size < 2 * share.world:
        raise UsageError(
            f"a batch of {batch_size} images for {share.world} processes", fix=f"use a multiple of {2 * share.world}"
        )
    return batch_size // share.world


class Shuffled(Sampler[int]):
    """All images in a random order, new in each epoch: this process's share of each batch, batches left whole.

    The order is the same in all processes, drawn from `generator`, so that any number of them see the same batches.
    """

    def __init__(self, count: int, batch_size: int, generator: torch.Generator, share: Share) -> None:
        self._count, self._batch, self._generator, self._share = count, batch_size, generator, share

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self._count, generator=self._generator).tolist()
        yield from order[: self._whole()][self._share.rank :: self._share.world]

    def __len__(self) -> int:
        return self._whole() // self._share.world

    def _whole(self) -> int:
        """Images in whole batches: a rest of one image would have no batch statistics."""
        return self._count - self._count % self._batch


def norm_statistics(model: nn.Module) -> list[Tensor]:
    """What the batch norms of a network remember of the batches that they saw."""
    norms = [module for module in model.modules() if is_batch_norm(module) and module.track_running_stats]
    statistics = (statistic for norm in norms for statistic in (norm.running_mean, norm.running_var))
    return [statistic for statistic in statistics if isinstance(statistic, Tensor)]


def agree_on(tensors: Iterable[Tensor]) -> None:
    """Set each tensor to its mean over all processes."""
    if not torch.distributed.is_initialized():
        return
    for tensor in tensors:
        torch.distributed.all_reduce(tensor)
        tensor /= torch.distributed.get_world_size()


def gathered(own: Tensor) -> list[Tensor]:
    """The tensor of each process, of one shape in all, by rank."""
    if not torch.distributed.is_initialized():
        return [own]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, own)
    return everyone
