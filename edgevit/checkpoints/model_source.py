"""Where a model comes from: a name, a user's file, or a module in memory; with its weights and labels."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.checkpoints.metadata import CheckpointMetadata, metadata_for
from edgevit.checkpoints.user_models import build_user_model, is_file_model
from edgevit.data.labels import require_one_line
from edgevit.errors import UsageError
from edgevit.log import logger
from edgevit.models import get_spec
from edgevit.models.counting import count_macs, count_params
from edgevit.spec import ModelSpec, Tier

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from edgevit.checkpoints.checkpoint import Checkpoint

_SEED = 0  # of random weights and of new heads, so that equal arguments give equal networks


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A float network with its weights, ready to convert.

    weights: where they are from, for the manifest. metadata: the checkpoint's, or made for it. one_by_one: the module
    takes one image at a time, as a deployed graph does.
    """

    module: nn.Module
    spec: ModelSpec
    labels: tuple[str, ...]
    weights: dict[str, Any]
    metadata: CheckpointMetadata
    one_by_one: bool = False

    def run(self, tensor: np.ndarray) -> np.ndarray:
        """Normalised images (N, 3, H, W) to logits (N, ...), in eval mode."""
        import torch

        images = torch.from_numpy(tensor)
        network = self.module.eval()
        with torch.no_grad():
            if self.one_by_one:
                return torch.cat([network(image[None]) for image in images]).numpy()
            return network(images).numpy()


def load_model(
    model: str | nn.Module,
    *,
    weights: str | Path | Checkpoint | None = None,
    num_classes: int | None = None,
    input_size: int | None = None,
    labels: tuple[str, ...] = (),
    spec: ModelSpec | None = None,
    replace_head: bool = False,
    float_part: bool = False,
) -> LoadedModel:
    """Resolve a model and load its float weights.

    model: a name of `edgevit list`, "path/to/file.py:factory", or a module (from create_model, or any other
    with `spec`). A checkpoint of ours brings classes, size, labels and preprocessing; arguments override it.
    float_part: take the float network out of an int8 checkpoint, too, which is refused otherwise.
    Raises UsageError for names, files, weights and labels that do not fit together.
    """
    from edgevit.checkpoints.checkpoint import Checkpoint, load_weights, read_checkpoint

    checkpoint = weights if weights is None or isinstance(weights, Checkpoint) else read_checkpoint(weights)
    if checkpoint is not None and checkpoint.int8 is not None and not float_part:
        raise UsageError(
            f"{checkpoint.path} is an int8 checkpoint",
            fix="convert it with --precision int8, or give the float checkpoint that it was made from",
        )
    metadata = None if checkpoint is None else checkpoint.metadata
    if metadata is not None:
        num_classes = metadata.num_classes if num_classes is None else num_classes
        input_size = metadata.input_size if input_size is None else input_size
        labels = labels or (metadata.labels if num_classes == metadata.num_classes else ())
    if isinstance(model, str):
        _check_metadata_model(model, metadata)
        module, spec = _build_seeded(model, num_classes, input_size)
    else:
        module, spec = model, spec_of(model, spec)
    if metadata is not None and input_size == metadata.input_size:
        spec = dataclasses.replace(spec, preprocess=metadata.preprocess)
    _check_labels(labels, spec)
    if checkpoint is not None:
        load_weights(module, checkpoint, replace_head=replace_head)
    elif isinstance(model, str):
        warn_of_random_weights(spec.name)
    counted = dataclasses.replace(spec, params=count_params(module), macs=count_macs(module, spec.inputs[0].shape))
    facts = _weights_facts(module, checkpoint, random=checkpoint is None and isinstance(model, str))
    return LoadedModel(module, counted, labels, facts, metadata or metadata_for(counted, labels))


def open_spec(model: str, num_classes: int | None = None, input_size: int | None = None) -> ModelSpec:
    """The spec of a model to train, by name or "file.py:factory"; its `build` starts from torch's own generator.

    Raises UsageError for names, files, and sizes that the network cannot take.
    """
    if not is_file_model(model):
        return get_spec(model).for_task(num_classes, input_size)
    _, spec = _build_seeded(model, num_classes, input_size)
    return dataclasses.replace(spec, build=lambda classes, size: _build(model, classes, size)[0].train())


def model_tier(model: str | nn.Module, spec: ModelSpec | None = None) -> Tier:
    """Where a model is meant to run, before it is built; networks from a file count as edge models."""
    if isinstance(model, str):
        return Tier.EDGE if is_file_model(model) else get_spec(model).tier
    return spec_of(model, spec).tier


def warn_of_random_weights(name: str) -> None:
    """The log line for a network that nobody trained."""
    logger.warning(
        "WARNING   no --weights given: %s has random weights (seed %d), its outputs mean nothing", name, _SEED
    )


def state_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights: the identity of a network wherever it is stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_metadata_model(model: str, metadata: Any) -> None:
    if metadata is not None and not is_file_model(model) and metadata.model != model:
        raise UsageError(
            f"these weights are of {metadata.model}, not of {model}", fix=f"convert {metadata.model} instead"
        )


def _check_labels(labels: tuple[str, ...], spec: ModelSpec) -> None:
    require_one_line(labels)
    if labels and len(labels) != spec.num_classes:
        raise UsageError(
            f"{len(labels)} labels for {spec.num_classes} classes of {spec.name}",
            fix="give one label per class, or --classes",
        )


def spec_of(module: nn.Module, spec: ModelSpec | None = None) -> ModelSpec:
    """The spec given for a module, or the one that create_model left on it. Raises UsageError if there is none."""
    found = spec or getattr(module, "edgevit_spec", None)
    if found is None:
        raise UsageError(
            f"no spec for a {type(module).__name__}",
            fix="pass spec=edgevit.describe_module(module, name=..., input_size=...)",
        )
    return found


def _build_seeded(model: str, num_classes: int | None, input_size: int | None) -> tuple[nn.Module, ModelSpec]:
    """`_build` with torch's generator at _SEED; the caller's generator keeps its state."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(_SEED)
        return _build(model, num_classes, input_size)


def _build(model: str, num_classes: int | None, input_size: int | None) -> tuple[nn.Module, ModelSpec]:
    if not is_file_model(model):
        spec = get_spec(model).for_task(num_classes, input_size)
        return spec.instantiate(), spec
    return build_user_model(model, num_classes, input_size)


def _weights_facts(module: nn.Module, checkpoint: Checkpoint | None, *, random: bool) -> dict[str, Any]:
    """The manifest's facts about the weights' origin."""
    facts: dict[str, Any] = {"source": "random" if random else "memory", "state_sha256": state_digest(module)}
    if checkpoint is not None:
        facts |= {"source": "checkpoint", "file": checkpoint.path.name, "sha256": checkpoint.sha256}
        if checkpoint.metadata is not None:
            facts["training"] = checkpoint.metadata.training
    return facts
