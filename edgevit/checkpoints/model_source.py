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

from edgevit.errors import QuantizationError, UsageError
from edgevit.log import logger
from edgevit.models import get_spec
from edgevit.models.counting import count_macs, count_params
from edgevit.spec import ModelSpec, Precision, Preprocess, Task, Tier, class_logits, image_input, logit_map

if TYPE_CHECKING:
    from torch import nn

    from edgevit.checkpoints.checkpoint import Checkpoint
    from edgevit.contract.manifest import AppliedPass
    from edgevit.quantization.quantized_model import Int8Network, ReferenceNetwork

_DEFAULT_SIZE = 224
_SEED = 0  # of random weights and of new heads, so that the same words give the same network


@dataclass(frozen=True, slots=True)
class Source:
    """A network ready for the line: module, spec, labels, and where its weights are from.

    module is in its training form, unless the source was opened in int8: then it is the deployed graph with its grids,
    `steps` are what made it, `reference` computes it in integers, and `twin` is the same graph without grids, on the
    same weights.
    """

    module: nn.Module
    spec: ModelSpec
    labels: tuple[str, ...]
    weights: dict[str, Any]
    steps: tuple[AppliedPass, ...] | None = None
    fp32_reference: Source | None = None
    reference: ReferenceNetwork | None = None

    def run(self, tensor: Any) -> Any:
        """The reference: normalised images (N, 3, H, W) to logits, NumPy in and out, eval mode."""
        import torch

        images = torch.from_numpy(tensor)
        with torch.no_grad():
            if self.reference is not None:
                return self.reference(images).numpy()
            network = self.module.eval()
            if self.steps is None:
                return network(images).numpy()
            return torch.cat([network(image[None]) for image in images]).numpy()  # deployed for one


def open_source(
    model: str | nn.Module,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    input_size: int | None = None,
    labels: tuple[str, ...] = (),
    spec: ModelSpec | None = None,
    replace_head: bool = False,
    precision: Precision | None = Precision.FP32,
) -> Source:
    """Resolve a model and load its weights.

    model: a name of `edgevit list`, "path/to/file.py:factory", or a module (from create_model, or any other
    with `spec`). A checkpoint of ours brings classes, size, labels and preprocessing; arguments override it.
    precision: int8 opens the int8 network of a checkpoint; None its float one, whatever else it holds.
    Raises UsageError for names, files, weights and labels that do not fit together, QuantizationError for int8
    without an int8 checkpoint.
    """
    from edgevit.checkpoints.checkpoint import load_weights, read_checkpoint

    checkpoint = None if weights is None else read_checkpoint(weights)
    _require_precision(checkpoint, precision)
    metadata = None if checkpoint is None else checkpoint.metadata
    if metadata is not None:
        num_classes = metadata.num_classes if num_classes is None else num_classes
        input_size = metadata.input_size if input_size is None else input_size
        labels = labels or (metadata.labels if num_classes == metadata.num_classes else ())
    if isinstance(model, str):
        _check_metadata_model(model, metadata)
        module, spec = _build_seeded(model, num_classes, input_size)
    else:
        module, spec = model, _spec_of(model, spec)
    if metadata is not None and input_size == metadata.input_size:
        spec = dataclasses.replace(spec, preprocess=metadata.preprocess)
    _check_labels(labels, spec)
    if checkpoint is not None:
        load_weights(module, checkpoint, replace_head=replace_head)
    elif isinstance(model, str):
        warn_of_random_weights(spec.name)
    counted = dataclasses.replace(spec, params=count_params(module), macs=count_macs(module, spec.inputs[0].shape))
    facts = _weights_facts(module, checkpoint, random=checkpoint is None and isinstance(model, str))
    if precision is not Precision.INT8:
        return Source(module, counted, labels, facts)
    from edgevit.quantization.quantized_model import ReferenceNetwork

    network = int8_network(module, counted, checkpoint)
    facts |= {"state_sha256": network.digest(), "quantization": metadata.quantization["method"]}
    fp32_reference = Source(network.deployed, counted, labels, facts, network.steps)
    return Source(network.module(), counted, labels, facts, network.steps, fp32_reference, ReferenceNetwork(network))


def open_spec(model: str, num_classes: int | None = None, input_size: int | None = None) -> ModelSpec:
    """The spec of a model to train, by name or "file.py:factory"; its `build` starts from torch's own generator.

    Raises UsageError for names, files, and sizes that the network cannot take.
    """
    if not is_file_model(model):
        return get_spec(model).for_task(num_classes, input_size)
    _, spec = _build_seeded(model, num_classes, input_size)
    return dataclasses.replace(spec, build=lambda classes, size: _build(model, classes, size)[0].train())


def _require_precision(checkpoint: Checkpoint | None, precision: Precision | None) -> None:
    """Scales come from data: an int8 network is one that was quantized, and no other."""
    quantized = checkpoint is not None and bool(checkpoint.int8)
    if precision is Precision.INT8 and not quantized:
        raise QuantizationError(
            "no int8 scales without weights" if checkpoint is None else f"{checkpoint.path} has no int8 scales",
            fix="make them first: edgevit quantize MODEL --weights FILE --data DATA, or edgevit qat",
        )
    if precision not in (None, Precision.INT8) and quantized:
        raise UsageError(
            f"{checkpoint.path} is an int8 checkpoint",
            fix="convert it with --precision int8, or give the float checkpoint that it was made from",
        )


def int8_network(module: nn.Module, spec: ModelSpec, checkpoint: Checkpoint) -> Int8Network:
    """The int8 network in a checkpoint, whose float network is `module`. Raises QuantizationError if damaged."""
    from edgevit.quantization.quantized_model import restore

    facts = checkpoint.metadata.quantization
    return restore(module, spec, checkpoint.int8, facts["activations"], facts.get("float_fallback", ()))


def model_tier(model: str | nn.Module, spec: ModelSpec | None = None) -> Tier:
    """Where a model is meant to run, before it is built; networks from a file count as edge models."""
    if isinstance(model, str):
        return Tier.EDGE if is_file_model(model) else get_spec(model).tier
    return _spec_of(model, spec).tier


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
    if labels and len(labels) != spec.num_classes:
        raise UsageError(
            f"{len(labels)} labels for {spec.num_classes} classes of {spec.name}",
            fix="give one label per class, or --classes",
        )


def _spec_of(module: nn.Module, spec: ModelSpec | None) -> ModelSpec:
    found = spec or getattr(module, "edgevit_spec", None)
    if found is None:
        raise UsageError(
            f"no spec for a {type(module).__name__}",
            fix="pass spec=edgevit.describe_module(module, name=..., input_size=...)",
        )
    return found


def _build_seeded(model: str, num_classes: int | None, input_size: int | None) -> tuple[nn.Module, ModelSpec]:
    """`_build` with torch's generator at _SEED; the caller's own random numbers go on as if nothing had happened."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(_SEED)
        return _build(model, num_classes, input_size)


def _build(model: str, num_classes: int | None, input_size: int | None) -> tuple[nn.Module, ModelSpec]:
    if not is_file_model(model):
        spec = get_spec(model).for_task(num_classes, input_size)
        return spec.build(spec.num_classes, spec.input_size), spec
    path, attribute = split_factory(model)
    if not attribute:
        raise UsageError(f"{model} names no factory", fix=f"write {model}:build, a function that returns an nn.Module")
    target = _import_attribute(path, attribute)
    if isinstance(target, ModelSpec):
        spec = target.for_task(num_classes, input_size)
        return spec.build(spec.num_classes, spec.input_size), spec
    size = input_size or _DEFAULT_SIZE
    module = _call_factory(target, model, num_classes, size)
    name = attribute if attribute not in ("build", "model", "create") else path.stem
    return module, describe_module(module, name=name, input_size=size)


def _import_attribute(path: Path, attribute: str) -> Any:
    """Run a user's own Python file and take one name from it."""
    if not path.is_file():
        raise UsageError(f"no file {path}", fix="give path/to/file.py:factory, or a name of `edgevit list`")
    loader = importlib.util.spec_from_file_location(f"edgevit_user_{path.stem}", path)
    module = importlib.util.module_from_spec(loader)
    sys.path.insert(0, str(path.resolve().parent))  # so that the file can import its neighbours
    try:
        loader.loader.exec_module(module)
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
    """What the manifest says about the weights' origin."""
    facts: dict[str, Any] = {"source": "random" if random else "memory", "state_sha256": state_digest(module)}
    if checkpoint is not None:
        facts |= {"source": "checkpoint", "file": checkpoint.path.name, "sha256": checkpoint.sha256}
        if checkpoint.metadata is not None:
            facts["training"] = checkpoint.metadata.training
    return facts
