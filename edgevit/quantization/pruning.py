"""`prune`: a float checkpoint with a share of its weights at zero, by NNCF's magnitude masks and some training."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.checkpoints.checkpoint import save_checkpoint
from edgevit.checkpoints.model_source import load_model
from edgevit.compat.nncf import open_nncf, pruning_masks, quiet_nncf
from edgevit.data.corrupt_images import readable
from edgevit.data.datasets import LabelledDataset, open_splits
from edgevit.data.metrics import describe_scores
from edgevit.errors import UsageError
from edgevit.log import stage
from edgevit.training.recipe import fine_tuning
from edgevit.training.trainer import (
    TrainingResult,
    check_sets,
    describe_training,
    fit,
    progress_of,
    seeded,
    threads_of,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgevit.spec import ModelSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Pruned(TrainingResult):
    """A pruned checkpoint and its training; sparsity: share of zeros among the weights that have a mask, 0 to 1."""

    sparsity: float


def prune(
    model: str,
    *,
    weights: str | Path,
    data: str | Path | tuple[LabelledDataset, LabelledDataset],
    out: str | Path,
    sparsity: float = 0.5,
    epochs: int | None = None,
    learning_rate: float | None = None,
    threads: int | None = None,
    resume: bool = False,
) -> Pruned:
    """Set a share of a trained network's weights to zero, train the others, and write an ordinary float checkpoint.

    model: a name of `edgevit list` or "file.py:factory". weights: its float checkpoint. data: "digits", "photos",
    "tiles", a folder (see `open_dataset`), or a training and a test set. out: the pruned checkpoint.
    sparsity: share of the weights of all convolutions and linear layers, above 0 and below 1; NNCF's global magnitude
    mode chooses them, each layer measured by its own norm. Training learns the outputs of the float network.
    The zeros are single weights: NNCF has no structured pruning for PyTorch, so files that store zeros and kernels
    that multiply them gain nothing; Core ML stores them sparsely with the option weight_compression=sparse. Epochs and
    the peak learning rate are those of the recipe "prune" unless given; `resume` goes on with a killed run as in `qat`.
    Raises UsageError for weights and data that do not fit, EdgevitError when training diverges; `out` then stays.
    """
    if not 0 < sparsity < 1:
        raise UsageError(f"sparsity {sparsity}", fix="give the share of weights to set to zero, such as 0.5")
    start = time.perf_counter()
    source = load_model(model, weights=weights)
    train_set, test_set = map(readable, open_splits(data))
    check_sets(source.spec, train_set, test_set)
    metadata = source.metadata
    recipe = fine_tuning("prune", metadata.training, epochs, learning_rate)
    teacher = copy.deepcopy(source.module)
    with stage("prune", model=source.spec.name, data=data) as running, threads_of(threads), seeded(recipe.seed):
        masked = _masked(source.module, source.spec, sparsity)
        curve = fit(
            masked, source.spec, train_set, test_set, recipe, progress=progress_of(out), resume=resume, teacher=teacher
        )
        masks = _masks(masked)
        network = _applied(teacher, masked, masks)
        reached = 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        running.result = f"{100 * reached:.1f} % zeros, {describe_scores(curve[-1].scores)} on {len(test_set)} images"
    facts = {"sparsity": reached, "weights": len(masks), **describe_training(train_set, recipe, curve)}
    save_checkpoint(out, network, dataclasses.replace(metadata, training=metadata.training | {"pruning": facts}))
    progress_of(out).unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    return Pruned(Path(out), curve[-1].metric, curve[-1].score, recipe.epochs, seconds, tuple(curve), reached)


def _masked(module: nn.Module, spec: ModelSpec, sparsity: float) -> nn.Module:
    """The network with NNCF's masks on its weights; constants that are no parameters, as of averages, stay."""
    from edgevit.graph.capture import example_input

    nncf = open_nncf()
    parameters = {name for name, _ in module.named_parameters()}
    with quiet_nncf():
        masked = nncf.prune(
            module.eval(),
            nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL,
            ratio=sparsity,
            examples_inputs=example_input(spec.inputs[0].shape),
        )

    for name, mask in pruning_masks(masked).items():
        if name not in parameters:
            mask.fill_(True)
    return masked


def _masks(masked: nn.Module) -> Mapping[str, Tensor]:
    """The boolean mask of each pruned weight, by its name in the state dict."""
    return {name: mask for name, mask in pruning_masks(masked).items() if not mask.all()}


def _applied(plain: nn.Module, masked: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A plain copy of the trained network, its masks multiplied into the weights."""
    network = copy.deepcopy(plain)
    trained = masked.state_dict()
    network.load_state_dict(
        {name: trained[name] * masks[name] if name in masks else trained[name] for name in network.state_dict()}
    )
    return network.eval()
