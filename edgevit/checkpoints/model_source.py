"""Where a model comes from: a name, a user's own file, or a module in memory; with its weights and labels."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.checkpoints.metadata import CheckpointMetadata, metadata_for
from edgevit.data.labels import require_one_line
from edgevit.errors import UsageError
from edgevit.log import logger
from edgevit.models import get_spec
from edgevit.models.counting import count_macs, count_params
from edgevit.spec import ModelSpec, Preprocess, Task, Tier, class_logits, image_input, logit_map

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from edgevit.checkpoints.checkpoint import Checkpoint

_DEFAULT_SIZE = 224
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


def is_file_model(model: str) -> bool:
    """Whether this names a user's own file, not a model of `edgevit list`."""
    return ":" in model or model.endswith(".py")


def split_factory(model: str) -> tuple[Path, str]:
    """ "path/to/file.py:factory" -> the file and the name in it, "" if there is none."""
    path, _, attribute = model.rpartition(":") if ":" in model else (model, "", "")
    return Path(path), attribute


def warn_of_random_weights(name: str) -> None:
    """The log line for a network that nobody trained."""
    logger.warning(
        "WARNING   no --weights given: %s has random weights (seed %d), its answers mean nothing", name, _SEED
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
    path, attribute = split_factory(model)
    if not attribute:
        raise UsageError(f"{model} names no factory", fix=f"write {model}:build, a function that returns an nn.Module")
    target = _import_attribute(path, attribute)
    if isinstance(target, ModelSpec):
        spec = target.for_task(num_classes, input_size)
        return spec.instantiate(), spec
    size = input_size or _DEFAULT_SIZE
    module = _call_factory(target, model, num_classes, size)
    name = attribute if attribute not in ("build", "model", "create") else path.stem
    return module, describe_module(module, name=name, input_size=size)


def _import_attribute(path: Path, attribute: str) -> Any:
    """Run a user's own Python file and take one name from it."""
    if not path.is_file():
        raise UsageError(f"no file {path}", fix="give path/to/file.py:factory, or a name of `edgevit list`")
    found = importlib.util.spec_from_file_location(f"edgevit_user_{path.stem}", path)
    if found is None or found.loader is None:
        raise UsageError(f"{path} is no Python file", fix="give path/to/file.py:factory")
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(path.resolve().parent))  # so that the file can import its neighbours
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"{path} fails when imported: {type(error).__name__}: {error}", fix="run it on its own first"
        ) from error
    finally:
        sys.path.pop(0)
    if not hasattr(module, attribute):
        names = ", ".join(name for name in vars(module) if not name.startswith("_")) or "nothing"
        raise UsageError(f"{path} has no {attribute!r}", fix=f"it has: {names}"[:300])
    return getattr(module, attribute)


def _call_factory(factory: Callable[..., Any], model: str, num_classes: int | None, size: int) -> nn.Module:
    """Call a user's factory with what it takes of num_classes and input_size."""
    from torch import nn

    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise UsageError(f"{model} is a {type(factory).__name__}", fix="name a function that returns an nn.Module")
    offered = {"num_classes": num_classes, "input_size": size}
    taken = inspect.signature(factory).parameters
    module = factory(**{key: value for key, value in offered.items() if key in taken and value is not None})
    if not isinstance(module, nn.Module):
        raise UsageError(f"{model} returned a {type(module).__name__}", fix="return an nn.Module")
    return module


def describe_module(
    module: nn.Module, *, name: str, input_size: int = _DEFAULT_SIZE, preprocess: Preprocess | None = None
) -> ModelSpec:
    """The spec of any module that maps images (N, 3, S, S) to logits (N, C) or (N, C, S, S).

    The task and the class count come from the shape of its output. Raises UsageError for other outputs.
    """
    import torch

    from edgevit.graph.capture import example_input

    inputs = image_input(input_size)
    module.eval()
    with torch.no_grad():
        try:
            output = module(example_input(inputs[0].shape))
        except Exception as error:
            raise UsageError(
                f"{name} cannot take an image {inputs[0].shape}: {type(error).__name__}: {error}"[:400],
                fix="give --input-size; the model must take one normalised float32 batch (N, 3, S, S)",
            ) from error
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else None
    if shape is None or len(shape) not in (2, 4):
        found = shape or type(output).__name__
        raise UsageError(
            f"{name} returns {found}", fix="return one tensor of logits: (N, classes) or (N, classes, H, W)"
        )
    segments = len(shape) == 4
    if segments and shape[2:] != (input_size, input_size):
        raise UsageError(f"{name} returns a map {shape}", fix=f"enlarge it to the input's {input_size}x{input_size}")
    return ModelSpec(
        name=name,
        task=Task.SEGMENT if segments else Task.CLASSIFY,
        tier=Tier.EDGE,
        build=None,
        inputs=inputs,
        outputs=logit_map(shape[1], input_size) if segments else class_logits(shape[1]),
        preprocess=preprocess or Preprocess.for_input(input_size),
        params=count_params(module),
        macs=0,
        paper="",
    )


def _weights_facts(module: nn.Module, checkpoint: Checkpoint | None, *, random: bool) -> dict[str, Any]:
    """The manifest's facts about the weights' origin."""
    facts: dict[str, Any] = {"source": "random" if random else "memory", "state_sha256": state_digest(module)}
    if checkpoint is not None:
        facts |= {"source": "checkpoint", "file": checkpoint.path.name, "sha256": checkpoint.sha256}
        if checkpoint.metadata is not None:
            facts["training"] = checkpoint.metadata.training
    return facts
